"""Check a network's output shape before spending GPU hours on it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from callbacks.preserve_state import preserve_state


@contextmanager
def dry_run(net: nn.Module, failure: str) -> Iterator[None]:
    """Run a network in a block without gradients and restore its state afterwards.

    Args:
        net: The network, on the device where it runs.
        failure: Start of the message if the block fails, such as ``Net fails on 3 samples``.

    Yields:
        Nothing.

    Raises:
        ValueError: If the block fails; one line with the network's own error.
    """
    try:
        with preserve_state(net), torch.no_grad():
            yield
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        raise ValueError(f"{failure}: {type(error).__name__}: {lines[0]}") from error


def check_net(
    net: nn.Module,
    *,
    input_shape: Sequence[int],
    output_shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Check the output shape of one forward pass in evaluation mode; the network stays as it was.

    Args:
        net: The network, on the device where it runs.
        input_shape: Shape of the input, batch first.
        output_shape: Required shape of the output, batch first.
        dtype: Input type: floats are drawn from N(0, 1), integers are 0 or 1.

    Raises:
        ValueError: One line: the expected and the actual shape, or the network's own error.
    """
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    name, shape = type(net).__name__, tuple(input_shape)
    with dry_run(net, f"{name} failed on an input of shape {shape}"):
        output = net.eval()(_random_input(shape, dtype, device))
    got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or tuple(output.shape) != tuple(output_shape):
        raise ValueError(
            f"{name} must map an input of shape {shape} to a tensor of shape "
            f"{tuple(output_shape)}, but returned {got}"
        )


def _random_input(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if dtype.is_floating_point:
        return torch.randn(shape, dtype=dtype, device=device)
    return torch.randint(0, 2, shape, dtype=dtype, device=device)
