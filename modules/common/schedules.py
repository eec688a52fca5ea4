"""Learning-rate schedules of the closed references, as pure functions of the epoch or step."""

import math
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
    """Compute the rate of an epoch: linear warm-up, changed once per epoch, then drops.

    Epoch m of a boundary still uses the old rate and epoch m + 1 the new one. A boundary before
    the end of the warm-up has no effect, as the next warm-up step overwrites it.

    Args:
        epoch: Counted from 1.
        learning_rate: Rate at the end of the warm-up.
        initial_learning_rate: Start of the warm-up; no epoch uses this value itself.
        warmup_epochs: Length of the warm-up; 0 starts at ``learning_rate``.
        decay_boundary_epochs: Last epoch before each drop, from 1.
        decay_factor: Multiplies the rate at each boundary.

    Returns:
        The rate of all steps of the epoch.

    Source:
        mlcommons/training @ 9947bdf2, image_segmentation/pytorch/runtime/training.py. Differs:
        a pure function of the epoch, so that a resumed run needs no history.
    """
    if epoch < warmup_epochs:
        rise = (learning_rate - initial_learning_rate) * epoch / warmup_epochs
        return initial_learning_rate + rise
    drops = sum(warmup_epochs <= boundary < epoch for boundary in decay_boundary_epochs)
    return learning_rate * decay_factor**drops


def warmup_polynomial(
    step: int,
    *,
    learning_rate: float,
    end_learning_rate: float,
    warmup_steps: float,
    total_steps: float,
    power: float = 2.0,
) -> float:
    """Compute the rate of a step: linear warm-up from 0, then a polynomial decay to the end rate.

    Step ``warmup_steps`` still belongs to the warm-up; the decay takes the remaining steps and one
    more, so the last of ``total_steps`` steps is not yet at the end rate.

    Args:
        step: Counted from 0.
        learning_rate: Rate at the end of the warm-up.
        end_learning_rate: Rate from step ``total_steps + 1`` on.
        warmup_steps: Length of the warm-up; 0 starts at ``learning_rate``.
        total_steps: Steps of warm-up and decay together.
        power: Exponent of the decay.

    Returns:
        The rate.

    Source:
        mlcommons/training, image_classification/tensorflow2/lars_util.py (v1.0). Differs: without
        a warm-up, step 0 has the base rate, where the reference divides 0 by 0.
    """
    if step <= warmup_steps:
        return learning_rate * step / warmup_steps if warmup_steps else learning_rate
    decay_steps = total_steps - warmup_steps + 1
    done = min(step - warmup_steps, decay_steps) / decay_steps
    return (learning_rate - end_learning_rate) * (1 - done) ** power + end_learning_rate


def warmup_hold_decay(
    step: int,
    *,
    steps_per_epoch: int,
    learning_rate: float,
    warmup_epochs: int,
    hold_epochs: int,
    decay_factor: float,
    min_learning_rate: float = 0.0,
) -> float:
    """Compute the rate of a step: warm-up per step, a plateau, then a drop after every epoch.

    During warm-up the rate is ``(step + 1) / (warmup_steps + 1)`` of the peak. The last step of
    the plateau's last epoch has the full rate by either rule.

    Args:
        step: Counted from 1.
        steps_per_epoch: Optimizer steps in an epoch.
        learning_rate: Rate of the plateau.
        warmup_epochs: Length of the warm-up.
        hold_epochs: Length of the plateau.
        decay_factor: Multiplies the rate once more in every epoch after that.
        min_learning_rate: Lower bound, also during warm-up.

    Returns:
        The rate.

    Source:
        mlcommons/training @ 9947bdf2, rnn_speech_recognition/pytorch/common/optimizers.py.
    """
    warmup_steps = warmup_epochs * steps_per_epoch
    if step < warmup_steps:
        share = (step + 1) / (warmup_steps + 1)
    elif step < (warmup_epochs + hold_epochs) * steps_per_epoch:
        share = 1.0
    else:
        epoch = (step - 1) // steps_per_epoch + 1
        share = decay_factor ** (epoch - warmup_epochs - hold_epochs)
    return max(share * learning_rate, min_learning_rate)


def warmup_hold_poly(
    step: int,
    *,
    learning_rate: float,
    warmup_steps: int = 0,
    decay_start_step: int = 0,
    decay_steps: int = 0,
) -> float:
    """Compute the rate of a step: linear warm-up, a plateau, then a decay with power 2.

    The plateau stays at the last value of the warm-up, ``learning_rate * (W - 1) / W``, one step
    short of the full rate; the closed reference does so.

    Args:
        step: Counted from 1.
        learning_rate: Rate that the warm-up aims at.
        warmup_steps: W; 0 or 1 starts at ``learning_rate``.
        decay_start_step: First step of the decay; at least ``warmup_steps`` if there is a decay.
        decay_steps: N, length of the decay; 0 keeps the plateau. Later steps keep the last rate,
            ``learning_rate / N^2``, or 1e-7.

    Returns:
        The rate.

    Source:
        facebookresearch/dlrm @ 6d75c84d, dlrm_s_pytorch.py, LRPolicyScheduler. Differs: a pure
        function of the step; without a warm-up the plateau is ``learning_rate``, where the
        reference fails.
    """
    if step < warmup_steps:
        return learning_rate * step / warmup_steps
    if decay_steps and step >= decay_start_step:
        left = max(decay_steps - (step - decay_start_step), 1)
        return max(1e-7, learning_rate * (left / decay_steps) ** 2)
    return learning_rate * (warmup_steps - 1) / warmup_steps if warmup_steps > 1 else learning_rate


def warmup_linear_decay(
    step: int,
    *,
    learning_rate: float,
    training_steps: int,
    warmup_steps: int = 0,
    start_warmup_step: int = 0,
) -> float:
    """Compute the rate of a step: linear warm-up, then a linear decay to 0.

    The decay counts from step 0, not from the end of the warm-up, so the rate may jump there. A
    negative start begins the warm-up part of the way up.

    Args:
        step: Optimizer steps done before this one, from 0.
        learning_rate: Rate that the warm-up aims at and the decay starts from.
        training_steps: Step from which on the rate is 0.
        warmup_steps: Length of the warm-up; 0 disables it, and ``start`` with it.
        start_warmup_step: Step at which the warm-up would be at 0; may be negative.

    Returns:
        The rate.

    Source:
        mlcommons/training @ 9947bdf2, language_model/tensorflow/bert/optimization.py. Differs:
        with gradient accumulation it counts micro-steps; here a step is an optimizer step.
    """
    since = step - start_warmup_step
    if warmup_steps > 0 and since < warmup_steps:
        return learning_rate * since / warmup_steps
    return learning_rate * (1 - min(step, training_steps) / training_steps)


def warmup_then_drops(
    step: int,
    *,
    learning_rate: float,
    warmup_steps: int,
    warmup_factor: int,
    decay_boundary_steps: Sequence[int],
    decay_factor: float = 0.1,
) -> float:
    """Compute the rate of a step: linear warm-up, a plateau just short of the base rate, drops.

    The warm-up's last step is one part in ``warmup_steps`` short of the base rate, and nothing
    corrects that before the next drop sets ``decay_factor`` times the base rate exactly. A boundary
    within the warm-up lowers the rate that the rest of the warm-up aims at.

    Args:
        step: Counted from 0.
        learning_rate: Base rate.
        warmup_steps: Length of the warm-up; 0 starts at the base rate.
        warmup_factor: The warm-up starts at ``1 - 1 / 2**warmup_factor`` of the base rate.
        decay_boundary_steps: First step of each lower rate.
        decay_factor: Multiplies the rate at each of them.

    Returns:
        The rate.

    Source:
        mlcommons/training (v1.0), single_stage_detector/ssd/train.py, ``lr_warmup``. Differs: a
        pure function of the step.
    """
    passed = [boundary for boundary in decay_boundary_steps if boundary <= step]
    base = learning_rate * decay_factor ** len(passed)
    if not warmup_steps or max(passed, default=-1) >= warmup_steps:
        return base
    left = max(warmup_steps - step, 1)
    return base - left * (base / (warmup_steps * 2**warmup_factor))


def absolute_warmup_drops(
    step: int,
    *,
    learning_rate: float,
    warmup_steps: int,
    warmup_deficit: float,
    decay_steps: Sequence[int],
    decay_factor: float = 0.1,
) -> float:
    """Compute the rate of a step: reduced by a fixed amount per warm-up step left, then drops.

    The reduction is the same for groups with another base rate, so a group with twice the rate
    starts at half of it where the others start at 0.

    Args:
        step: Counted from 0.
        learning_rate: Base rate of the parameter group.
        warmup_steps: Length of the warm-up.
        warmup_deficit: Reduction of the rate per remaining warm-up step.
        decay_steps: First step of each lower rate.
        decay_factor: Multiplies the rate at each of them.

    Returns:
        The rate.

    Source:
        mlcommons/training (v1.0), maskrcnn_benchmark/solver/lr_scheduler.py, "mlperf_linear".
    """
    lacking = max(warmup_steps - step, 0) * warmup_deficit
    return (learning_rate - lacking) * decay_factor ** sum(s <= step for s in decay_steps)


def warmup_cosine(
    step: int,
    *,
    learning_rate: float,
    end_learning_rate: float,
    warmup_steps: int,
    decay_end_step: int,
    first_step_done: int = 0,
) -> float:
    """Compute the rate of a step: linear warm-up, then a half cosine down to the end rate.

    Step ``warmup_steps`` has the full rate, and the cosine begins there.

    Args:
        step: Counted from 0.
        learning_rate: Rate at the end of the warm-up.
        end_learning_rate: Rate from ``decay_end_step`` on.
        warmup_steps: W, length of the warm-up; 0 starts at the full rate.
        decay_end_step: First step at the end rate; above ``warmup_steps``.
        first_step_done: 0 starts the warm-up at a rate of 0; 1 at ``learning_rate / (W + 1)``.

    Returns:
        The rate.

    Source:
        0: NVIDIA/Megatron-LM @ 84778176, core/optimizer_param_scheduler.py; 1: NVIDIA/NeMo @
        v2.1.0, core/optim/lr_scheduler.py, WarmupAnnealHoldPolicy.
    """
    if step < warmup_steps:
        return learning_rate * (step + first_step_done) / (warmup_steps + first_step_done)
    done = min((step - warmup_steps) / (decay_end_step - warmup_steps), 1.0)
    share = (1 + math.cos(math.pi * done)) / 2
    return end_learning_rate + (learning_rate - end_learning_rate) * share
