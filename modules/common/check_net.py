"""Ask a network what it makes of its input before GPU hours are spent on it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@contextmanager
def tried(net: nn.Module) -> Iterator[None]:
    """Let a block run a network without gradients and leave no trace of it.

    Afterwards each submodule's train/eval mode (frozen parts may be in evaluation mode for good),
    the buffers and the random state are as before.

    Args:
        net: The network, on the device where it is tried.

    Yields:
        Nothing.
    """
    modes = [(module, module.training) for module in net.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers() if not is_lazy(buffer)]
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def check_net(
    net: nn.Module,
    *,
    input_shape: Sequence[int],
    output_shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Refuse a network whose output does not have the shape that a benchmark needs.

    Runs one forward pass in evaluation mode without gradients, which leaves no trace.

    Args:
        net: The network, on the device where it is to be tried.
        input_shape: Shape of the input, batch first.
        output_shape: Shape that must come out, batch first.
        dtype: Input type: floats are drawn from N(0, 1), integers are 0 or 1.

    Raises:
        ValueError: One line: the shape expected and what came, or the network's own error.
    """
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    name, shape = type(net).__name__, tuple(input_shape)
    try:
        with tried(net):
            output = net.eval()(_random_input(shape, dtype, device))
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        reason = f"{type(error).__name__}: {lines[0]}"
        raise ValueError(f"{name} failed on an input of shape {shape}: {reason}") from error
    got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or tuple(output.shape) != tuple(output_shape):
        raise ValueError(
            f"{name} must turn an input of shape {shape} into a tensor of shape "
            f"{tuple(output_shape)}, but it gave {got}"
        )


def _random_input(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if dtype.is_floating_point:
        return torch.randn(shape, dtype=dtype, device=device)
    return torch.randint(0, 2, shape, dtype=dtype, device=device)
