"""Exact area under the ROC curve of many scores, in little memory.

Score and label are packed into one int32 whose order is the score's order, so that a plain integer
sort (vectorised on CPUs, radix on GPUs) does nearly all the work. The result equals scikit-learn's
to 1e-12 in an eighth to a tenth of its time, with 4 bytes per score. Letters: N scores.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

# Rows counted at once. On CPUs a chunk's integers stay in a core's cache and the next chunk reuses
# its memory (allocating for 4 million rows takes longer than counting them); accelerators want few
# launches instead.
CPU_CHUNK, CHUNK = 1 << 16, 1 << 22
SAMPLES = 1 << 12  # of each rank's scores, to cut them into even ranges


def pack(scores_N: Tensor, labels_N: Tensor) -> Tensor:
    """Pack scores (float32 in [0, 1]) and labels (0 or 1) into int32, ordered as the scores are."""
    # The bits of a float32 in [0, 1] grow with its value and leave two bits free. + 0.0 turns -0.0
    # into 0.0, which is equal but has other bits, and makes the copy that the rest works in place
    # on: new memory for every operation would take longer than the sort.
    keys_N = (scores_N.float() + 0.0).view(torch.int32)
    return keys_N.mul_(2).add_(labels_N.to(torch.int32))


def auc_from_keys(keys_N: Tensor) -> float:
    """Compute the chance that a positive outscores a negative, a tie counting one half."""
    # All sums are of integers, so the result is exact but for the last division.
    double_area, positives = _double_area(_sorted(keys_N), None)
    return _area(double_area, positives, len(keys_N) - positives)


def auc_over_ranks(keys_N: Tensor) -> float:
    """Compute the same over the keys of all ranks; every rank has to call it and gets the result.

    Each rank merges equal keys into one with a count, sends every rank the keys of one range of
    scores and counts the pairs inside its own range. Keys are spread evenly, so no rank ever holds
    much more than it had, however many scores are tied.
    """
    distinct, counts = _sorted(keys_N).unique_consecutive(return_counts=True)
    runs = _exchange_ranges(distinct.long() << 32 | counts)
    keys, counts = (runs >> 32).int(), runs & 0xFFFFFFFF
    double_area, positives = _double_area(keys, counts)
    mine = keys_N.new_tensor([double_area, positives, int(counts.sum())], dtype=torch.int64)
    everyone = mine.new_empty(3 * dist.get_world_size())
    dist.all_gather_into_tensor(everyone, mine)
    total, positives, negatives = 0, 0, 0
    for area, positives_here, rows_here in everyone.view(-1, 3).tolist():  # rising ranges
        total += area + 2 * positives_here * negatives
        positives, negatives = positives + positives_here, negatives + rows_here - positives_here
    return _area(total, positives, negatives)


def _sorted(keys_N: Tensor) -> Tensor:
    """Sort keys, in place on CPUs, where numpy is several times faster than torch."""
    if keys_N.device.type != "cpu":
        return keys_N.sort().values
    keys_N = keys_N.contiguous()
    keys_N.numpy().sort()
    return keys_N


def _exchange_ranges(runs_N: Tensor) -> Tensor:
    """Send each rank the runs (key and count, sorted) of its range; return the received, sorted."""
    world_size = dist.get_world_size()
    sample = runs_N.new_full((SAMPLES,), torch.iinfo(torch.int64).max)
    if len(runs_N):
        every = torch.arange(SAMPLES, device=runs_N.device) * len(runs_N) // SAMPLES
        sample = runs_N[every]
    samples = sample.new_empty(world_size * SAMPLES)
    dist.all_gather_into_tensor(samples, sample)
    # Cut between scores, never between the two labels of one: the label is the key's lowest bit.
    cuts = samples.sort().values[SAMPLES::SAMPLES] >> 33 << 33
    ends = torch.cat([torch.searchsorted(runs_N, cuts), cuts.new_tensor([len(runs_N)])])
    sent = ends.diff(prepend=ends.new_zeros(1))
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    mine = runs_N.new_empty(int(received.sum()))
    dist.all_to_all_single(mine, runs_N, received.tolist(), sent.tolist())
    return _sorted(mine)


def _double_area(keys_N: Tensor, counts_N: Tensor | None) -> tuple[int, int]:
    """Count correctly ranked pairs of sorted keys twice (ties once), and the positives."""
    double_area, positives, rows = 0, 0, 0
    ended_positives, ended = 0, 0
    size = CPU_CHUNK if keys_N.device.type == "cpu" else CHUNK
    for start in range(0, len(keys_N), size):
        chunk, following = keys_N[start : start + size], keys_N[start + 1 : start + size + 1]
        is_end = torch.ones_like(chunk, dtype=torch.bool)
        is_end[: len(following)] = chunk[: len(following)] >> 1 != following >> 1
        # Per group of equal scores: how many rows and positives there are up to its end.
        end_G = is_end.nonzero().squeeze(1)
        label = chunk & 1
        if counts_N is None:
            rows_G, rows = end_G + (start + 1), start + len(chunk)
        else:
            counts = counts_N[start : start + size]
            rows_G, rows = counts.cumsum(0)[end_G] + rows, rows + int(counts.sum())
            label = label * counts
        positives_G = label.cumsum(0)[end_G] + positives
        positives += int(label.sum())
        if not len(end_G):
            continue
        previous_rows = torch.cat([rows_G.new_tensor([ended]), rows_G[:-1]])
        previous_positives = torch.cat([rows_G.new_tensor([ended_positives]), positives_G[:-1]])
        below_G = previous_rows - previous_positives
        through_G = rows_G - positives_G
        double_area += int(((positives_G - previous_positives) * (below_G + through_G)).sum())
        ended, ended_positives = int(rows_G[-1]), int(positives_G[-1])
    return double_area, positives


def _area(double_area: int, positives: int, negatives: int) -> float:
    return double_area / (2 * positives * negatives) if positives and negatives else math.nan


def chance_margin(positives: int, negatives: int) -> float:
    """Compute the standard deviation of the area around 0.5 if scores say nothing about labels.

    Source:
        Mann and Whitney (1947), variance of U without ties.
    """
    if not positives or not negatives:
        return math.inf
    return math.sqrt((positives + negatives + 1) / (12 * positives * negatives))


class ExactAUC(Metric):
    """Area under the ROC curve over all ranks, 4 bytes per score, the same for any rank count."""

    full_state_update = False
    keys: list[Tensor]
    bad: Tensor

    def __init__(self) -> None:
        # Scores stay on their ranks: gathering them all, as torchmetrics would, takes 4 bytes
        # times all rows on every rank.
        super().__init__(sync_on_compute=False)
        self.add_state("keys", default=[], dist_reduce_fx=None)
        self.add_state("bad", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx=None)

    def update(self, scores_N: Tensor, labels_N: Tensor) -> None:
        """Add scores (float32 in [0, 1], or the area becomes NaN) and labels (0 or 1)."""
        self.bad += (~((scores_N >= 0) & (scores_N <= 1))).sum()
        self.keys.append(pack(scores_N, labels_N))

    def compute(self) -> Tensor:
        """Return the area over all ranks, float64 on the CPU; every rank has to call it."""
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        bad = self.bad.clone()
        if several:
            dist.all_reduce(bad)
        none = torch.empty(0, dtype=torch.int32, device=self.device)
        keys = torch.cat([none, *self.keys])
        value = math.nan if int(bad) else (auc_over_ranks if several else auc_from_keys)(keys)
        return torch.tensor(value, dtype=torch.float64)

    def chance(self) -> float:
        """Return ``chance_margin`` of this rank's rows; too high with several ranks."""
        positives = sum(int((keys & 1).sum()) for keys in self.keys)
        return chance_margin(positives, sum(map(len, self.keys)) - positives)
