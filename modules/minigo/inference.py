"""Frozen copies of a network for the search of Go: arrays in and out, from any thread.

Shapes: B positions, n points per side, A = n*n + 1 actions.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from queue import SimpleQueue

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from modules.minigo.net import DualNet

Network = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""planes (B, 13, n, n) uint8 -> priors (B, A) float32 and values (B,) float32, Black's view."""

Forward = Callable[[], tuple[Tensor, Tensor]]

WARM_UP_PASSES = 3
"""As torch advises before a capture: libraries choose and allocate in their first passes."""


def network_of(net: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32) -> Network:
    """Freeze a copy of a network, which any thread may call while the network itself trains on."""
    copy = _frozen(net, device, dtype)

    @torch.inference_mode()
    def evaluate(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _arrays(*_priors_and_values(copy, torch.from_numpy(planes).to(device), dtype))

    return evaluate


class GraphedNets:
    """Copies of one network at a few batch sizes, each captured once in a CUDA graph.

    A graph starts all kernels of a pass at once and without Python. It is bound to its tensors, so
    new weights are copied into them, and a batch takes the first rows of the next larger size; the
    results of the other rows are dropped. On other devices nothing is captured; the rest is the
    same.

    Args:
        net: A network with the shape of all later ones, which may differ only in parameters and
            buffers.
        device: Where to run them.
        dtype: Type to compute in.
        plane_shape: Of one position, (13, n, n).
        largest: Positions of the largest batch.
        copies: Threads that may evaluate at the same time; others wait.

    Raises:
        ValueError: If the network cannot be captured, as where its kernels depend on its input.
    """

    def __init__(
        self, net: nn.Module, device: torch.device, dtype: torch.dtype, *,
        plane_shape: Sequence[int], largest: int, copies: int,
    ) -> None:  # fmt: skip
        self._device, self._dtype = device, dtype
        self._idle: SimpleQueue[_Copy] = SimpleQueue()
        planes = torch.zeros((largest, *plane_shape), dtype=torch.uint8, device=device)
        side_stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        for _ in range(copies):
            self._idle.put(_Copy(_frozen(net, device, dtype), planes.clone(), dtype, side_stream))

    def network(self, net: nn.Module) -> Network:
        """Freeze a net's current weights, like ``network_of``, for up to ``largest`` positions."""
        weights = _tensors(_frozen(net, self._device, self._dtype))
        if self._device.type == "cuda":
            # Copies read them in streams of their own.
            torch.cuda.current_stream(self._device).synchronize()

        def evaluate(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            copy = self._idle.get()
            try:
                return copy.evaluate(planes, weights)
            finally:
                self._idle.put(copy)

        return evaluate


class _Copy:
    """A network with its own tensors, graphs and stream; one thread at a time may use it."""

    def __init__(
        self,
        net: nn.Module,
        planes_BPnn: Tensor,
        dtype: torch.dtype,
        side_stream: "torch.cuda.Stream | None",
    ) -> None:
        self._net, self._planes_BPnn = net, planes_BPnn  # graphs do not keep what they read
        self._held: list[Tensor] = []
        """The weights that were copied into the network's own tensors."""
        self._sizes = batch_sizes(len(planes_BPnn))
        self._forwards: list[Forward] = [
            partial(_priors_and_values, net, planes_BPnn[:size], dtype) for size in self._sizes
        ]
        self._stream = None
        if side_stream is not None:
            self._stream = torch.cuda.Stream(planes_BPnn.device)
            self._forwards = _captured(
                self._forwards, self._stream, side_stream, type(net).__name__
            )

    @torch.inference_mode()
    def evaluate(self, planes: np.ndarray, weights: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        count = len(planes)
        with _in_stream(self._stream):
            if weights is not self._held:
                self._held = []  # an interrupted copy leaves neither
                for own, new in zip(_tensors(self._net), weights, strict=True):
                    own.copy_(new)
                self._held = weights
            self._planes_BPnn[:count].copy_(torch.from_numpy(planes))
            priors_BA, value_B = self._forwards[bisect_left(self._sizes, count)]()
            return _arrays(priors_BA[:count], value_B[:count])


def batch_sizes(largest: int) -> list[int]:
    """Divide into eighths of the largest, so that a full search wastes little of its batch."""
    return sorted({-(-largest * eighths // 8) for eighths in range(1, 9)})


@contextmanager
def _in_stream(stream: "torch.cuda.Stream | None") -> Iterator[None]:
    """Make a stream current, and its device, as new threads start on the first GPU."""
    if stream is None:
        yield
        return
    with torch.cuda.device(stream.device), torch.cuda.stream(stream):
        yield


def _captured(
    forwards: Sequence[Forward],
    stream: torch.cuda.Stream,
    side_stream: torch.cuda.Stream,
    name: str,
) -> list[Forward]:
    """Capture each pass; what is returned replays its kernels and fills the same outputs.

    All graphs share memory: the outputs of one are read before another starts. The warm-up runs
    in another stream, so that what libraries allocate for this one belongs to the graphs.
    """
    pool = torch.cuda.graph_pool_handle()
    side_stream.wait_stream(torch.cuda.current_stream(stream.device))
    replays: list[Forward] = []
    for forward in forwards:
        with torch.cuda.stream(side_stream):
            for _ in range(WARM_UP_PASSES):
                forward()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, such as those that load data, may continue.
            with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
                outputs = forward()
        except RuntimeError as error:
            cause = error.__context__ or error  # the former is the network's own error
            raise ValueError(
                f"{name} cannot be captured in a CUDA graph ({str(cause).strip().splitlines()[0]})"
                "; without --model.cuda_graph_play it plays as it is"
            ) from error
        replays.append(partial(_replayed, graph, outputs))
    return replays


def _replayed(graph: torch.cuda.CUDAGraph, outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    graph.replay()
    return outputs


@torch.inference_mode()
def _priors_and_values(
    net: nn.Module, planes_BPnn: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute priors (B, A) and values (B,), both float32."""
    # A mixed-precision trainer's autocast holds in its evaluation, too.
    with torch.autocast(planes_BPnn.device.type, enabled=False):
        logits_BA, value_B = net(planes_BPnn.to(dtype))
    return torch.softmax(logits_BA.float(), dim=1), value_B.float()


def _arrays(priors_BA: Tensor, value_B: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return priors_BA.cpu().numpy(), value_B.cpu().numpy()


def _frozen(net: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    # The folding is exact only in single precision.
    return fused(deepcopy(net).to(device).eval().requires_grad_(False)).to(dtype)


def _tensors(net: nn.Module) -> list[Tensor]:
    """List everything in which two networks of one shape differ."""
    return [*net.parameters(), *net.buffers()]


def fused(net: nn.Module) -> nn.Module:
    """Fold a dual network's normalisation into its convolutions in place; return the net."""
    pairs = [("conv", "bn"), ("policy_conv", "policy_bn"), ("value_conv", "value_bn")]
    layers: list[tuple[nn.Module, str, str]] = []
    if isinstance(net, DualNet):
        layers = [(net, conv, bn) for conv, bn in pairs]
        layers += [(b, f"conv{i}", f"bn{i}") for b in net.blocks for i in (1, 2)]
    for owner, conv, bn in layers:
        setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, bn)))
        setattr(owner, bn, nn.Identity())
    return net
