"""A device that is no CPU, for machines without one: finds tensors that were left behind.

Its tensors compute on the CPU, but whoever joins them with CPU tensors gets the error that a GPU
would give, and ``.numpy()`` is refused, as is float64, which Apple's GPUs lack. A recipe runs on it
through Lightning as on a GPU:

    python -m tests.pretend_device resnet --config recipes/presets/resnet/demo.yaml

What it cannot do is done in another way: LSTMs (fused on GPUs, a loop here), gradients of
embeddings (sparse there, dense here), nested tensors (padded groups, as on CPUs); no checkpoint is
written.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

import lightning as L
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.nn import functional as F
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
NAME = "pretend"
# As on GPUs: these may join tensors of two devices, where they copy or index.
MAY_MIX = {aten.copy_, aten._to_copy, aten.index, aten.index_put_, aten.index_put}
MAY_MIX |= {aten._index_put_impl_}
# Composites that reach the mode whole in inference mode; their results need not count as views.
WHOLE = {aten.to, aten.contiguous, aten.reshape, aten.flatten}


class Elsewhere(torch.Tensor):
    """A tensor that reports the pretended device; ``inner`` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), dtype=inner.dtype, device=torch.device(NAME, 0), **layout
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert a tensor of another device to numpy; use Tensor.cpu()")

    __array__ = numpy

    def __repr__(self, **kwargs: Any) -> str:
        return f"Elsewhere({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with PretendDevice():
            return func(*args, **(kwargs or {}))


class PretendDevice(TorchDispatchMode):
    """Lets ``Elsewhere`` tensors meet only each other."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        here = [x for x in leaves if not isinstance(x, Elsewhere) and x.dim()]
        there = [x for x in leaves if isinstance(x, Elsewhere)]
        packet, device = func.overloadpacket, kwargs.get("device")
        if here and there and packet not in MAY_MIX:
            shapes = [tuple(x.shape) for x in here], [tuple(x.shape) for x in there]
            raise RuntimeError(f"{func}: tensors of two devices: CPU {shapes[0]}, {shapes[1]}")
        result_there = bool(there) if device is None else torch.device(device).type == NAME
        if packet is aten.copy_:
            result_there = isinstance(args[0], Elsewhere)
        plain_args, plain_kwargs = tree_map(_inner, (args, kwargs))
        if device is not None:
            plain_kwargs["device"] = "cpu"
        result = func(*plain_args, **plain_kwargs)
        if not result_there:
            return result
        if any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in tree_leaves(result)):
            raise TypeError(f"{func}: this device has no float64")
        result = tree_map(lambda x: Elsewhere(x) if isinstance(x, Tensor) else x, result)
        if packet in WHOLE:
            return result
        return return_and_correct_aliasing(func, args, kwargs, result)


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, Elsewhere) else x


def install() -> None:
    """Make torch know the device; for the whole process."""

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.float16, torch.bfloat16]

    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    # A parameter that moves becomes another object, as its class changes.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.backends.mha.set_fastpath_enabled(False)
    for name in ("tensor", "as_tensor"):
        setattr(torch, name, _from_data(getattr(torch, name)))
    torch.Tensor.new_tensor = _new_tensor  # type: ignore[method-assign]
    torch.Generator = _cpu_generator  # type: ignore[misc,assignment]
    torch.nn.modules.rnn._VF = _Loops()  # type: ignore[attr-defined]
    embedding = F.embedding
    F.embedding = lambda *args, sparse=False, **kwargs: embedding(*args, **kwargs)
    torch.sparse_coo_tensor = _dense_rows  # type: ignore[assignment]


def _from_data(build: Any) -> Any:
    """``torch.tensor`` cannot make tensors of a device written in Python; a copy can."""

    @functools.wraps(build)
    def make(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        device = torch.get_default_device() if device is None else device
        made: Tensor = build(*args, device="cpu", **kwargs)
        return made.to(device)

    return make


def _dense_rows(index: Tensor, rows: Tensor, size: tuple[int, ...], **kwargs: Any) -> Tensor:
    """Rows of a table's gradient, as a tensor that is no sparse one."""
    return torch.zeros(size, dtype=rows.dtype, device=rows.device).index_add(0, index[0], rows)


def _new_tensor(self: Tensor, data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
    return torch.tensor(data, device=device or self.device, **{"dtype": self.dtype, **kwargs})


def _cpu_generator(device: Any = "cpu", make: Any = torch.Generator) -> torch.Generator:
    generator: torch.Generator = make()
    return generator


class _Loops:
    """Stands in for torch's recurrent functions."""

    @staticmethod
    def lstm(
        x: Tensor,
        state: tuple[Tensor, Tensor],
        weights: list[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Several layers, step by step; with biases, in one direction."""
        assert has_biases
        assert not bidirectional
        x = x.transpose(0, 1) if batch_first else x
        last = []
        for layer in range(num_layers):
            if layer and dropout:
                x = F.dropout(x, dropout, train)
            x, *ends = _layer(x, state[0][layer], state[1][layer], weights[4 * layer :][:4])
            last.append(ends)
        hidden, cell = (torch.stack(each) for each in zip(*last, strict=True))
        return (x.transpose(0, 1) if batch_first else x), hidden, cell


def _layer(x: Tensor, hidden: Tensor, cell: Tensor, weights: list[Tensor]) -> list[Tensor]:
    from_input, outputs = F.linear(x, weights[0], weights[2]), []
    for gates in from_input:
        gates = gates + F.linear(hidden, weights[1], weights[3])
        enter, forget, new, leave = gates.chunk(4, -1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return [torch.stack(outputs), hidden, cell]


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """Nothing to do; the CPU's own refuses other devices."""


def train(stem: str, args: list[str]) -> int:
    """Run a recipe's ``fit`` on the pretended device.

    Args:
        stem: The recipe.
        args: Arguments after ``fit``.

    Returns:
        Its exit status.
    """
    from callbacks.checkpoint import Checkpoint
    from recipes.cli import main as command_line

    install()
    build = L.Trainer.__init__

    @functools.wraps(build)
    def on_device(self: L.Trainer, *args: Any, **kwargs: Any) -> None:
        device = torch.device(NAME, 0)
        kwargs["strategy"] = SingleDeviceStrategy(accelerator=_Accelerator(), device=device)
        build(self, *args, **{**kwargs, "accelerator": "auto", "devices": 1})

    L.Trainer.__init__ = on_device  # type: ignore[method-assign]
    Checkpoint.save = lambda self, trainer: None  # type: ignore[method-assign]
    with PretendDevice():
        return command_line.run(
            importlib.import_module(f"recipes.{stem}").BENCHMARK, ["fit", *args]
        )


if __name__ == "__main__":
    raise SystemExit(train(sys.argv[1], sys.argv[2:]))
