"""Scale a synthetic batch to the memory and the speed of the machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import lightning as L
import torch
from torch.utils._pytree import tree_leaves

from callbacks.live_line import LIVE
from recipes.cli.benchmark import Benchmark
from recipes.cli.memory import OUT_OF_MEMORY
from recipes.cli.usage import UsageError
from recipes.speed.flags import FEWEST_STEPS, SpeedCLI
from recipes.speed.loops import lightning_round, plain_training, synchronize
from recipes.speed.memory import SMALLER_NETWORK, check_fits, memory_limit, peak_memory

USABLE = 0.9  # of the memory; the rest is for what a probe does not show

TOO_LARGE = f"a training step on one sample does not fit into memory; {SMALLER_NETWORK}"


class Probe(NamedTuple):
    """A step on a batch."""

    seconds: float
    held: float
    """Bytes of weights, buffers and the optimizer's state, which do not grow with the batch."""


class Fit(NamedTuple):
    """A batch that fits, and the seconds of a step on it."""

    size: int
    seconds: float


def fit_batch_size(benchmark: Benchmark, cli: SpeedCLI) -> list[str]:
    """Reduce the batch until a step fits into memory and time; return what was scaled.

    Where even the smallest batch takes longer than a step may, there are fewer steps too.

    Args:
        benchmark: The data sheet.
        cli: Its data module's ``batch_size`` and its ``steps`` are changed.

    Returns:
        A line with the factor for each.

    Raises:
        UsageError: If not even the smallest batch fits.
    """
    data: Any = cli.datamodule
    closed = data.batch_size
    base = peak_memory(torch.device("cpu"))
    trainer, smallest = _smallest_round(benchmark, cli)
    device = trainer.strategy.root_device
    if device.type == "cuda":
        used, seconds = _halve(cli, trainer, closed, smallest)
    else:
        used, seconds = _double(cli, trainer, closed, smallest, base)
    data.batch_size = used
    factor = round(closed / used, 1)
    lines = [f"batch size {closed} -> {used} (1/{factor:g})"] if used < closed else []
    return lines + _fewer_steps(cli, seconds)


def _fewer_steps(cli: SpeedCLI, seconds: float) -> list[str]:
    """Keep a round to the time that its steps may take; return a line if it gets shorter."""
    wanted, most = cli.config.steps, cli.config.step_seconds
    steps = max(FEWEST_STEPS, int(wanted * most / seconds))
    # Twice, as the time of a single step says no more than that.
    if seconds <= 2 * most or steps >= wanted:
        return []
    cli.config.steps = steps
    cli.config_init.warmup.steps = min(cli.config_init.warmup.steps, 1)  # counts its FLOPs
    return [f"steps of a round {wanted} -> {steps} (one takes {seconds:.3g} s)"]


def _smallest_round(benchmark: Benchmark, cli: SpeedCLI) -> tuple[L.Trainer, int]:
    """Train one step on one sample, or on two where a normalisation needs more than one."""
    data: Any = cli.datamodule
    for size in (1, 2):
        data.batch_size = size
        try:
            with _no_warm_up(cli):
                batch = data.synthetic_batch()
                return lightning_round(benchmark, cli, [batch], 1, L.Callback()), size
        except ValueError as error:
            if size == 2 or "more than 1 value per channel" not in str(error):
                raise
        except (MemoryError, RuntimeError) as error:
            _check_memory_error(error)
            raise UsageError(TOO_LARGE) from error
    raise AssertionError


@contextmanager
def _no_warm_up(cli: SpeedCLI) -> Iterator[None]:
    """Leave the warm-up to the measurement: each size would be compiled anew."""
    warm_up = cli.config_init.warmup
    wanted = warm_up.compile, warm_up.steps
    warm_up.compile, warm_up.steps = False, 0
    try:
        yield
    finally:
        warm_up.compile, warm_up.steps = wanted


def _double(cli: SpeedCLI, trainer: L.Trainer, closed: int, smallest: int, base: float) -> Fit:
    """Return the largest batch by doubling, as a process that runs out of memory is killed."""
    size, limit = min(smallest, closed), USABLE * memory_limit(cli)
    seconds, device = cli.config.step_seconds, trainer.strategy.root_device
    while True:
        (passed, held), peak = _step(cli, trainer, size), peak_memory(device)
        check_fits(peak, memory_limit(cli), f"a training step on a batch of {size} needs")
        larger = min(2 * size, closed)
        factor = larger / size
        fixed = min(base + held, peak)
        fits = fixed + factor * (peak - fixed) <= limit
        if larger == size or not fits or factor * passed > seconds:
            return Fit(size, passed)
        size = larger


def _halve(cli: SpeedCLI, trainer: L.Trainer, closed: int, smallest: int) -> Fit:
    """Return the largest batch by halving, as a GPU only reports that memory is short."""
    if cli.config.memory_gib is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_limit(cli) / total))
    size = closed
    while True:
        try:
            _step(cli, trainer, size)  # the first one also chooses algorithms
            passed = _step(cli, trainer, size).seconds
            if size == smallest or passed <= cli.config.step_seconds:
                return Fit(size, passed)
        except (MemoryError, RuntimeError) as error:
            _check_memory_error(error)
            if size == smallest:
                raise UsageError(TOO_LARGE) from error
        gc.collect()
        torch.cuda.empty_cache()
        size = max(smallest, size // 2)


def _step(cli: SpeedCLI, trainer: L.Trainer, size: int) -> Probe:
    """Time one forward and backward pass on ``size`` samples.

    In fp32 where variants are wanted: all are measured on the same batch as eager fp32, which needs
    the most memory.
    """
    LIVE.show(f"trying a batch of {size}")
    data: Any = cli.datamodule
    data.batch_size = size
    batch = data.synthetic_batch()
    precision = nullcontext if cli.variants else None
    with plain_training(cli, trainer, precision) as (optimizer, forward):
        synchronize()
        start = time.perf_counter()
        forward(batch, 0).backward()
        synchronize()
        seconds = time.perf_counter() - start
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        optimizer.step()  # moves no weight, but its state takes memory too
        tensors = [*cli.model.parameters(), *cli.model.buffers(), *tree_leaves(optimizer.state)]
    sizes = [each.nbytes for each in tensors if isinstance(each, torch.Tensor)]
    return Probe(seconds, float(sum(sizes)))


def _check_memory_error(error: BaseException) -> None:
    """Raise any error but one for lack of memory."""
    if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
        raise error
