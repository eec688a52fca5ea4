"""The transducer loss, with a joint that holds only a part of the batch at a time.

Letters: B batch, S input frames, T encoder frames, U labels, J joint width, V outputs with the
blank last, G utterances of a group. Numbers of frames and labels are int64.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.rnnt.lattice import lattice_loss

State = tuple[Tensor, Tensor]


class Transducer(Protocol):
    """A network that can be trained and decoded; see ``modules.rnnt.net.RNNT``."""

    num_labels: int

    def encode(self, features_BSF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Turn speech features (B, S, 240) and lengths into encoded_BTJ and lengths."""

    def predict(
        self, labels_BU: Tensor, state: State | None = None, *, start: bool = False
    ) -> tuple[Tensor, State]:
        """Turn label ids and a state into predicted_BUJ and a state; its second axis is B.

        ``start`` puts the start of the sequence before the labels: U + 1 outputs.
        """

    def join(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """Join vectors (..., J) whose leading axes broadcast into logits (..., V)."""


def node_log_probs(logits_BTUV: Tensor, labels_BU: Tensor) -> Tensor:
    """Return log_probs_BTU2 in float32: the next label (unused in the last node) and the blank."""
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
    """Return a batch's mean loss as a float32 scalar; predicted_BUJ has U + 1 nodes.

    The batch is sorted by length and goes through the joint in groups of at most ``max_nodes``
    lattice nodes, each cut to its own longest utterance. A group's gradient is computed right away,
    so only one group's logits are in memory at a time and little is spent on padding.
    """
    # The only wait for the device.
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
    """Split utterances into groups of similar size, of at most so many nodes with padding."""
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
    """Loss and gradients group by group; backward only returns what forward has computed."""

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
        sums: list[Any] = [None] * len(parameters)  # stays None outside the joint
        encoded_grad, predicted_grad = (
            torch.zeros_like(encoded_BTJ),
            torch.zeros_like(predicted_BUJ),
        )
        total = torch.zeros((), device=encoded_BTJ.device)
        device = encoded_BTJ.device
        order_B = torch.tensor([i for group, _, _ in groups for i in group])
        if device.type == "cuda":
            order_B = order_B.pin_memory()  # without it the copy would wait for the device
        sizes = [len(group) for group, _, _ in groups]
        indices = order_B.to(device, non_blocking=True).split(sizes)
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
                inputs = [*parts, *parameters]
                of_encoded, of_predicted, *grads = torch.autograd.grad(
                    loss, inputs, allow_unused=True
                )
                encoded_grad[index_G, :T] = of_encoded
                predicted_grad[index_G, : U + 1] = of_predicted
                for i, grad in enumerate(grads):
                    if grad is not None:
                        sums[i] = grad if sums[i] is None else sums[i] + grad
        ctx.gradients = (encoded_grad, predicted_grad, *sums)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        scale = grad_outputs[0]
        gradients = [None if grad is None else grad * scale for grad in ctx.gradients]
        return (None, None, None, None, None, *gradients)
