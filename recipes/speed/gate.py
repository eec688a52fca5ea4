"""The numeric gate of variants: losses and gradients against eager fp32, from the same start."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from recipes.speed.loops import plain_training
from recipes.speed.variants import Settings

STEPS = 3
# A tensor counts by itself unless its gradient is this small a part of the whole: those of biases
# before a normalisation are rounding errors only.
LEAST_SHARE = 0.01
# bf16 rounds every activation too, so a right variant may differ this many times as much from fp32
# as fp32 itself does with weights that were rounded to bf16; one in fp32, as fp32 does when it is
# repeated: on a GPU sums come in another order each time.
TIMES_NATURAL = 10.0
ROUNDED_ROWS = 2**20


class Tolerance(NamedTuple):
    """Largest relative errors of a right variant."""

    loss: float
    gradient: float


FULL = Tolerance(1e-3, 2e-2)
REDUCED = Tolerance(2e-2, 0.3)  # products in bf16 or TF32


class Step(NamedTuple):
    """Results of the reference in one step."""

    loss: float
    gradients: dict[str, Tensor]


class Errors(NamedTuple):
    """Largest relative errors over all steps."""

    loss: float
    gradient: float
    """Of all gradients together, or of one tensor's component along the expected gradient, which
    rounding hardly changes and a lost or wrongly scaled gradient does."""

    def within(self, tolerance: Tolerance) -> bool:
        """Return whether both are; NaN never is."""
        return self.loss <= tolerance.loss and self.gradient <= tolerance.gradient


class Gate:
    """Compares a variant's steps with those of the reference.

    Each takes the same steps of the recipe's optimizer from the same weights, on the same batches
    and random numbers, without dropout, whose masks depend on how it is computed.

    Args:
        cli: Module and data module.
        trainer: That of a finished Lightning round.
        batches: Batches on the CPU.
        reference: Settings of the reference.
    """

    def __init__(
        self, cli: Any, trainer: L.Trainer, batches: list[Any], reference: Settings
    ) -> None:
        self._cli, self._trainer, self._batches = cli, trainer, batches
        self._settings = reference
        self._start = {name: x.detach().to("cpu", copy=True) for name, x in _tensors(cli.model)}
        steps = self._steps(reference)
        self._reference = [
            Step(float(loss), {name: g.cpu() for name, g in gradients.items()})
            for loss, gradients in steps
        ]
        self.restart()

    def errors(self, settings: Settings) -> Errors:
        """Return how far a variant's steps are from the reference's."""
        return self._compare(self._steps(settings))

    def right(self, errors: Errors, tolerance: Tolerance) -> bool | None:
        """Judge errors; None where the network amplifies rounding too much to tell.

        Args:
            errors: Of a variant.
            tolerance: What a well-conditioned network keeps to, in this precision.

        Returns:
            Whether the variant is right. A few samples in a batch normalisation can turn the
            rounding of weights into other gradients, and a sum in another order can change which
            boxes a detector proposes; then errors like those say nothing.
        """
        if errors.within(tolerance):
            return True
        own = self.repeated if tolerance is FULL else self.rounded
        natural = Tolerance(*(TIMES_NATURAL * error for error in own))
        return None if errors.within(natural) else False

    @cached_property
    def repeated(self) -> Errors:
        """How far the reference's own steps are when it takes them again; 0 on a CPU."""
        return self._compare(self._steps(self._settings))

    @cached_property
    def rounded(self) -> Errors:
        """How far the reference's own steps are after its weights were rounded to bf16."""
        return self._compare(self._steps(self._settings, rounded=True))

    def _compare(self, steps: Iterator[tuple[Tensor, dict[str, Tensor]]]) -> Errors:
        pairs = zip(steps, self._reference, strict=True)
        errors = [_step_errors(*step, expected) for step, expected in pairs]
        return Errors(*(_largest(column) for column in zip(*errors, strict=True)))

    def restart(self) -> None:
        """Give the module the weights and buffers from which all variants start."""
        with torch.no_grad():
            for name, tensor in _tensors(self._cli.model):
                tensor.copy_(self._start[name])

    def _steps(
        self, settings: Settings, *, rounded: bool = False
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        module = self._cli.model
        self.restart()
        if rounded:
            with torch.no_grad():
                for weight in module.parameters():
                    for rows in weight.split(ROUNDED_ROWS) if weight.ndim else (weight,):
                        rows.copy_(rows.bfloat16())  # in pieces: a table may fill half the memory
        device = self._trainer.strategy.root_device
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            settings.applied(),
            _without_dropout(module),
            plain_training(self._cli, self._trainer, settings.autocast) as (optimizer, forward),
        ):
            for number in range(STEPS):
                torch.manual_seed(number)
                loss = forward(self._batches[number % len(self._batches)], number)
                loss.backward()
                gradients = {n: w.grad for n, w in module.named_parameters() if w.grad is not None}
                yield loss.detach(), gradients
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _step_errors(loss: Tensor, gradients: dict[str, Tensor], expected: Step) -> Errors:
    wrong = abs(float(loss) - expected.loss) / max(abs(expected.loss), 1e-12)
    if gradients.keys() != expected.gradients.keys():
        return Errors(wrong, math.inf)
    pairs = [_distance(g, expected.gradients[name]) for name, g in gradients.items()]
    whole = sum(pair.square for pair in pairs)
    least = LEAST_SHARE**2 * whole
    off = math.sqrt(sum(pair.difference for pair in pairs) / max(whole, 1e-60))
    shares = [abs(pair.along) / max(pair.square, least, 1e-60) for pair in pairs]
    return Errors(wrong, _largest([off, *shares]))


class _Distance(NamedTuple):
    """Of a gradient g from the expected r: |r|^2, |g - r|^2 and the product of g - r and r."""

    square: float
    difference: float
    along: float


def _distance(gradient: Tensor, expected: Tensor) -> _Distance:
    # Tables have gradients of hundreds of megabytes; but only CUDA's GPUs know float64.
    device = gradient.device if gradient.is_cuda else torch.device("cpu")
    wanted = expected.to(device)
    difference = gradient.to(device) - wanted
    if expected.is_sparse:
        difference, wanted = _same_rows(difference, wanted)
    difference, wanted = difference.double().flatten(), wanted.double().flatten()
    return _Distance(
        float(wanted @ wanted), float(difference @ difference), float(difference @ wanted)
    )


def _same_rows(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of two sparse tensors in the rows that either has; repeated rows add up."""
    a, b = a.coalesce(), b.coalesce()
    rows = torch.cat([a.indices()[0], b.indices()[0]]).unique()
    values = []
    for part in (a, b):
        dense = part.values().new_zeros(len(rows), *part.shape[1:])
        dense[torch.searchsorted(rows, part.indices()[0])] = part.values()
        values.append(dense)
    return values[0], values[1]


def _largest(values: Any) -> float:
    """Return the largest value; NaN where there is one, which max() may pass over."""
    kept = list(values)
    return math.nan if any(math.isnan(value) for value in kept) else max(kept, default=0.0)


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    """Set every fraction that is dropped to 0 within a block."""
    kept = [
        (part, name, value)
        for part in module.modules()
        for name, value in vars(part).items()
        if isinstance(value, float) and (name == "p" or "dropout" in name)
    ]
    for part, name, _ in kept:
        setattr(part, name, 0.0)
    try:
        yield
    finally:
        for part, name, value in kept:
            setattr(part, name, value)
