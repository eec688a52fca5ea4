"""Check a network's output shapes before spending GPU hours on it."""

from collections.abc import Iterator, Mapping, Sequence
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
        ValueError: If the block fails, with the network's own error, or if the network makes layers
            in it, which a checkpoint could not be read into; one line.
    """
    before = set(net.state_dict())
    try:
        with preserve_state(net), torch.no_grad():
            yield
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        raise ValueError(f"{failure}: {type(error).__name__}: {lines[0]}") from error
    if made := [name for name in net.state_dict() if name not in before]:
        raise ValueError(
            f"{type(net).__name__} makes {made[0]} only when it is called, so its checkpoints "
            "could not be read; make all layers in __init__, also torch.nn.LazyLinear and the like"
        )


def check_net(
    net: nn.Module,
    *,
    input_shape: Sequence[int],
    output_shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Check the output shape in evaluation and in training mode; the network stays as it was.

    Args:
        net: The network, on the device where it runs.
        input_shape: Shape of the input, batch first; training takes at least two samples.
        output_shape: Required shape of the output, batch first.
        dtype: Input type: floats are drawn from N(0, 1), integers are 0 or 1.

    Raises:
        ValueError: One line: the expected and the actual shape or type, NaN, or the network's own
            error.
    """
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    name, shape = type(net).__name__, tuple(input_shape)
    for training in (False, True):
        # Batch norm has no variance of one sample.
        batch = max(2, shape[0]) if training else shape[0]
        given, wanted = (batch, *shape[1:]), (batch, *output_shape[1:])
        mode = " in training" if training else ""
        with dry_run(net, f"{name} failed on an input of shape {given}{mode}"):
            output = net.train(training)(_random_input(given, dtype, device))
        if isinstance(output, Tensor) and tuple(output.shape) == wanted:
            check_type(name, output)
            if output.isnan().any():
                raise ValueError(f"{name} returns NaN{mode}, before any training")
            continue
        if training:
            raise ValueError(
                f"in training {name} returns {describe_output(output)}; switch deep supervision "
                f"off, or other auxiliary outputs: training needs one tensor of shape {wanted}"
            )
        raise ValueError(
            f"{name} must map an input of shape {given} to a tensor of shape {wanted}, but "
            f"returned {describe_output(output)}"
        )


def check_type(name: str, output: Tensor) -> None:
    """Raise a ValueError of one line unless a network's output is of a floating-point type."""
    if not output.is_floating_point():
        kind = str(output.dtype).removeprefix("torch.")
        raise ValueError(
            f"{name} returns {kind}, which cannot be trained; let it return floating-point numbers"
        )


def describe_output(output: object) -> str:
    """Say what a network returned: ``shape (1, 3)``, ``a list of 2``, ``a dict of 2: out, aux``."""
    if isinstance(output, Tensor):
        return f"shape {tuple(output.shape)}"
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {kind} of {len(output)}: {', '.join(map(str, output))}"
    return f"a {kind} of {len(output)}" if isinstance(output, list | tuple) else f"a {kind}"


def _random_input(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if dtype.is_floating_point:
        return torch.randn(shape, dtype=dtype, device=device)
    return torch.randint(0, 2, shape, dtype=dtype, device=device)
