"""Learning-rate schedules of the closed references, as pure functions of the epoch or step."""

from collections.abc import Sequence


def warmup_multistep(
    epoch: int,
    *,
    learning_rate: float,
    initial_learning_rate: float = 0.0,
    warmup_epochs: int = 0,
    decay_boundary_epochs: Sequence[int] = (),
    decay_factor: float = 1.0,
) -> float:
    """Learning rate of an epoch: a linear rise set once per epoch, then a drop at each boundary.

    Epoch m of a boundary still uses the old rate and epoch m + 1 the new one. A boundary before
    the end of the warm-up has no effect, as the next warm-up step overwrites it.

    Args:
        epoch: Counted from 1.
        learning_rate: Rate at the end of the warm-up.
        initial_learning_rate: Where the rise starts from; no epoch uses this value itself.
        warmup_epochs: Epochs of the rise; 0 starts at ``learning_rate``.
        decay_boundary_epochs: Last epochs before each drop, from 1.
        decay_factor: Multiplies the rate at each boundary.

    Returns:
        The rate that all steps of the epoch use.

    Source:
        mlcommons/training @ 9947bdf2, image_segmentation/pytorch/runtime/training.py. Differs:
        a pure function of the epoch, so that a resumed run needs no history.
    """
    if epoch < warmup_epochs:
        rise = (learning_rate - initial_learning_rate) * epoch / warmup_epochs
        return initial_learning_rate + rise
    drops = sum(warmup_epochs <= boundary < epoch for boundary in decay_boundary_epochs)
    return learning_rate * decay_factor**drops
