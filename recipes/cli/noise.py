"""Library messages that a normal run does not show, each with the reason."""

from __future__ import annotations

import logging
import warnings

# (start of the message as a regular expression, why it is silenced)
SILENCED = (
    (".*does not have many workers.*", "worker count is a flag; small data needs none"),
    (".*smaller than the logging interval.*", "demos have short epochs"),
    (".*lr_scheduler.step.*before.*optimizer.step.*", "false alarm of LambdaLR with a resumed run"),
    (".*your dataloader is not resumable.*", "our sampler resumes by epoch and batch"),
    (".*ended before the epoch ended.*", "our sampler resumes by epoch and batch"),
    (".*GPU available but not used.*", "the user chose the device"),
    (".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*", "Lightning calls torch's old name"),
    (".*Checkpoint directory .* exists and is not empty.*", "run folders are never used twice"),
    (".*The `srun` command is available.*", "starting without srun is a choice"),
    (".*is ill-defined.*single-element.*", "torchmetrics on tiny demo batches"),
    (".*Found .* module\\(s\\) in eval mode.*", "frozen layers are in eval mode on purpose"),
    (".*No device id is provided via `init_process_group`.*", "one device per process is set"),
    (".*recommended to use .*sync_dist=True.*", "our metrics are equal on all ranks already"),
    (".*Sparse invariant checks are implicitly disabled.*", "the indices are our own"),
    (".*Dynamo detected a call to a `functools.lru_cache`.*", "our cached values never change"),
    (".*deterministic.*non-deterministic.*", "speed is the default; the flag is the trainer's"),
)


def quiet() -> None:
    """Silence the messages above and Lightning's information about devices."""
    for pattern, _ in SILENCED:
        warnings.filterwarnings("ignore", message=pattern)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
