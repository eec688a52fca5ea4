"""Attention of concatenated sequences, each to itself only, without computing padding.

Shapes: T tokens of all sequences, B sequences, H heads, D numbers per head; G sequences of one
group, S the length of its longest.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Sequences whose length is at least this fraction of the group's longest are computed together.
GROUP_SHARE = 0.75


class Group(NamedTuple):
    """Sequences of similar length, to be computed as one padded batch."""

    rows: Tensor
    """(G, S) int64 into the T tokens; beyond a sequence's end, its last token again."""
    real: Tensor | None
    """(G, S) bool: False beyond a sequence's end; None where all have the same length."""


class Plan(NamedTuple):
    """How to compute attention over one batch; the same for all layers."""

    cu_seqlens: Tensor
    """(B + 1,) first token of each sequence, and T."""
    max_length: int
    """No sequence is longer."""
    groups: tuple[Group, ...]
    """Every sequence once; empty where nothing is padded."""
    places: Tensor | None
    """(T,) int64: position of each token's result in the groups' concatenated results."""


def plan_attention(cu_seqlens: Tensor, max_length: int, *, nested: bool | None = None) -> Plan:
    """Decide how to compute attention of sequences that start at ``cu_seqlens`` (and end at T)."""
    # Variable-length kernels take all sequences and never wait for the device. Only CUDA has them;
    # elsewhere nested tensors do the same, slowly, and padding to similar lengths is faster.
    if cu_seqlens.is_cuda if nested is None else nested:
        return Plan(cu_seqlens.int(), max_length, (), None)
    starts = cu_seqlens.tolist()
    lengths = [b - a for a, b in zip(starts, starts[1:], strict=False)]
    order = sorted(range(len(lengths)), key=lambda n: -lengths[n])
    members: list[list[int]] = []
    for n in order:
        if not members or lengths[n] < GROUP_SHARE * lengths[members[-1][0]]:
            members.append([])
        members[-1].append(n)
    groups = tuple(_group(starts, lengths, each, cu_seqlens.device) for each in members)
    token_T = torch.cat([g.rows.flatten() for g in groups])
    keep = torch.cat([_all_real(g).flatten() for g in groups])
    places_T = torch.empty(starts[-1], dtype=torch.int64, device=cu_seqlens.device)
    places_T[token_T[keep]] = torch.arange(token_T.numel(), device=cu_seqlens.device)[keep]
    return Plan(cu_seqlens, max_length, groups, places_T)


def varlen_attention(
    query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, plan: Plan, *, dropout: float = 0.0
) -> Tensor:
    """Compute softmax attention within each sequence, scores divided by the root of D."""
    if plan.places is None:
        fits = query_THD.device.type != "cpu" and query_THD.shape[-1] in range(8, 257, 8)
        return (_fused if fits else _nested)(query_THD, key_THD, value_THD, plan, dropout)
    results = []
    for group in plan.groups:
        q, k, v = (
            _gather(each, group.rows).transpose(1, 2) for each in (query_THD, key_THD, value_THD)
        )
        mask = None if group.real is None else group.real[:, None, None, :]
        result_GHSD = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        results.append(result_GHSD.transpose(1, 2).flatten(0, 1))
    return torch.cat(results).index_select(0, plan.places)


def _fused(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, plan: Plan, dropout: float) -> Tensor:
    """Call the kernels behind nested tensors directly: those cost the host 3 ms per layer."""
    ends, longest = (plan.cu_seqlens,) * 2, (plan.max_length,) * 2
    if q_THD.dtype == torch.bfloat16:  # GPUs that have float16 only may lack this kernel
        return torch.ops.aten._flash_attention_forward(
            q_THD, k_THD, v_THD, *ends, *longest, dropout, False, False
        )[0]
    q, k, v = (each[None] for each in (q_THD, k_THD, v_THD))
    return torch.ops.aten._efficient_attention_forward(
        q, k, v, None, *ends, *longest, dropout, 0, True
    )[0].squeeze(0)


def _nested(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, plan: Plan, dropout: float) -> Tensor:
    q, k, v = (
        torch.nested.nested_tensor_from_jagged(
            each, plan.cu_seqlens, min_seqlen=1, max_seqlen=plan.max_length
        ).transpose(1, 2)
        for each in (q_THD, k_THD, v_THD)
    )
    result = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    return result.transpose(1, 2).values()  # type: ignore[operator]


def _group(starts: list[int], lengths: list[int], each: list[int], device: torch.device) -> Group:
    first_G1 = torch.tensor([[starts[n]] for n in each], device=device)
    length_G1 = torch.tensor([[lengths[n]] for n in each], device=device)
    step_S = torch.arange(lengths[each[0]], device=device)
    real_GS = step_S < length_G1
    index_GS = first_G1 + torch.minimum(step_S, length_G1 - 1)
    return Group(index_GS, None if bool(real_GS.all()) else real_GS)


def _all_real(group: Group) -> Tensor:
    """Mark the positions that are not padding."""
    if group.real is None:
        return torch.ones_like(group.rows, dtype=torch.bool)
    return group.real


def _gather(rows_THD: Tensor, index_GS: Tensor) -> Tensor:
    return rows_THD.index_select(0, index_GS.flatten()).unflatten(0, index_GS.shape)
