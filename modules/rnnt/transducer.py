"""The transducer loss, with a joint that never holds more than a part of the batch.

Letters: B batch, T encoder frames, U labels, J joint width, V outputs with the blank last,
G utterances of a group.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

State = tuple[Tensor, Tensor]


class Transducer(Protocol):
    """What training and decoding ask of a network; see ``modules.rnnt.net.RNNT``."""

    num_labels: int

    def encode(self, features_BSF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Speech: features and lengths in, encoded_BTJ and lengths out."""

    def predict(
        self, labels_BU: Tensor, state: State | None = None, *, start: bool = False
    ) -> tuple[Tensor, State]:
        """Labels: ids and state in, predicted_BUJ and state out; states have the batch second."""

    def join(self, encoded_J: Tensor, predicted_J: Tensor) -> Tensor:
        """Both: vectors with any leading axes in, logits_V out."""


def lattice_loss(log_probs_BTU2: Tensor, frames_B: Tensor, num_labels_B: Tensor) -> Tensor:
    """Negative log of the summed probability of all alignments, per utterance.

    The network's V outputs matter only through two numbers per lattice node, so torchaudio's loss
    is asked with an alphabet of one label and a blank.

    Args:
        log_probs_BTU2: Log-probability of the next label and of the blank where t frames and u
            labels are done; float32; U + 1 nodes per frame. The label of the last node is unused.
        frames_B: int64 encoder frames of each; the greatest is T.
        num_labels_B: int64 labels of each; the greatest is U.

    Returns:
        loss_B: float32, natural log units.

    Source:
        A. Graves, Sequence Transduction with Recurrent Neural Networks, 2012, eq. 12-18.
    """
    from torchaudio.functional import rnnt_loss

    B, _, nodes, _ = log_probs_BTU2.shape
    targets_BU = torch.zeros(B, nodes - 1, dtype=torch.int32, device=log_probs_BTU2.device)
    return rnnt_loss(
        log_probs_BTU2.contiguous(),
        targets_BU,
        frames_B.int(),
        num_labels_B.int(),
        blank=1,
        reduction="none",
        fused_log_softmax=False,
    )


def node_log_probs(logits_BTUV: Tensor, labels_BU: Tensor) -> Tensor:
    """The two log-probabilities of every lattice node that the loss needs.

    Args:
        logits_BTUV: Raw outputs, blank last; any float type.
        labels_BU: int64 labels; one fewer than nodes.

    Returns:
        log_probs_BTU2: float32, next label and blank.
    """
    logits_BTUV = logits_BTUV.float()
    norm_BTU = logits_BTUV.logsumexp(-1)
    labels_BU = F.pad(labels_BU, (0, 1))
    index = labels_BU[:, None, :, None].expand(-1, logits_BTUV.shape[1], -1, -1)
    label_BTU = logits_BTUV.gather(-1, index)[..., 0]
    return torch.stack((label_BTU - norm_BTU, logits_BTUV[..., -1] - norm_BTU), -1)


def transducer_loss(
    net: Transducer,
    encoded_BTJ: Tensor,
    frames_B: Tensor,
    predicted_BUJ: Tensor,
    labels_BU: Tensor,
    num_labels_B: Tensor,
    *,
    max_nodes: int = 2**18,
) -> Tensor:
    """Mean transducer loss of a batch.

    The batch is sorted by length and goes through the joint in groups of at most ``max_nodes``
    lattice nodes, each cut to its own longest utterance. A group's gradient is taken at once, so
    the logits of one group only are ever in memory and little is spent on padding.

    Args:
        net: Gives ``join``; a module, whose parameters receive gradients.
        encoded_BTJ: From ``net.encode``.
        frames_B: int64 encoder frames of each utterance.
        predicted_BUJ: From ``net.predict`` with ``start``; U + 1 nodes.
        labels_BU: int64 labels, padded with any label.
        num_labels_B: int64 labels of each utterance.
        max_nodes: Greatest number of lattice nodes in one group of several utterances.

    Returns:
        loss: float32 scalar, the sum over utterances divided by their number.
    """
    # One wait for the device here, none per group; torchaudio's loss has its own.
    frames, num_labels = torch.stack((frames_B, num_labels_B)).tolist()
    groups = [
        (group, max(frames[i] for i in group), max(num_labels[i] for i in group))
        for group in plan_groups(frames, num_labels, max_nodes=max_nodes)
    ]
    parameters = [p for p in net.parameters() if p.requires_grad]  # type: ignore[attr-defined]
    return _GroupedLoss.apply(
        net, groups, frames_B, labels_BU, num_labels_B, encoded_BTJ, predicted_BUJ, *parameters
    )


def plan_groups(
    frames: Sequence[int], num_labels: Sequence[int], *, max_nodes: int
) -> list[list[int]]:
    """Share out utterances to groups of similar size.

    Args:
        frames: Encoder frames of each utterance.
        num_labels: Labels of each.
        max_nodes: Greatest number of nodes, padding counted, of a group of several utterances.

    Returns:
        Utterance numbers; every utterance is in exactly one group.
    """
    order = sorted(range(len(frames)), key=lambda i: (frames[i], num_labels[i]), reverse=True)
    groups: list[list[int]] = []
    widest = 0
    for number in order:
        widest = max(widest, num_labels[number] + 1)
        if groups and (len(groups[-1]) + 1) * frames[groups[-1][0]] * widest <= max_nodes:
            groups[-1].append(number)
        else:
            groups.append([number])
            widest = num_labels[number] + 1
    return groups


class _GroupedLoss(torch.autograd.Function):
    """Loss and gradients group by group; backward only hands out what forward has found."""

    @staticmethod
    def forward(
        ctx: Any,
        net: Any,
        groups: list[tuple[list[int], int, int]],
        frames_B: Tensor,
        labels_BU: Tensor,
        num_labels_B: Tensor,
        encoded_BTJ: Tensor,
        predicted_BUJ: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        wants_gradient = any(ctx.needs_input_grad)
        sums: list[Any] = [None] * len(parameters)  # stays None for those outside of the joint
        encoded_grad, predicted_grad = (
            torch.zeros_like(encoded_BTJ),
            torch.zeros_like(predicted_BUJ),
        )
        total = torch.zeros((), device=encoded_BTJ.device)
        order_B = torch.tensor([i for group, _, _ in groups for i in group])
        sizes = [len(group) for group, _, _ in groups]
        indices = order_B.to(encoded_BTJ.device).split(sizes)
        for index_G, (_, T, U) in zip(indices, groups, strict=True):
            frames_G, num_labels_G = frames_B[index_G], num_labels_B[index_G]
            with torch.set_grad_enabled(wants_gradient):
                parts = (
                    encoded_BTJ[index_G, :T].detach(),
                    predicted_BUJ[index_G, : U + 1].detach(),
                )
                for part in parts:
                    part.requires_grad_(wants_gradient)
                logits = net.join(parts[0][:, :, None], parts[1][:, None])
                with torch.autocast(logits.device.type, enabled=False):
                    two = node_log_probs(logits, labels_BU[index_G, :U])
                    loss = lattice_loss(two, frames_G, num_labels_G).sum() / len(frames_B)
            total += loss.detach()
            if wants_gradient:
                found = torch.autograd.grad(loss, [*parts, *parameters], allow_unused=True)
                encoded_grad[index_G, :T] = found[0]
                predicted_grad[index_G, : U + 1] = found[1]
                for place, grad in enumerate(found[2:]):
                    if grad is not None:
                        sums[place] = grad if sums[place] is None else sums[place] + grad
        ctx.gradients = (encoded_grad, predicted_grad, *sums)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        scale = grad_outputs[0]
        gradients = [None if grad is None else grad * scale for grad in ctx.gradients]
        return (None, None, None, None, None, *gradients)
