"""Slices of many tensors that stay in a processor's cache between the operators that use them."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

NUMBERS_PER_THREAD = 1 << 16  # LAMB's five arrays of them are 1.3 MB in fp32


def plain_on_cpu(*lists: Sequence[Tensor]) -> bool:
    """Whether all tensors are contiguous, of one type and in main memory, none of them sharded."""
    dtype = lists[0][0].dtype
    return all(
        tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and tensor.dtype == dtype
        and type(tensor) in (Tensor, nn.Parameter)
        for tensors in lists
        for tensor in tensors
    )


def cache_sized(*lists: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """Yield the same slices of several lists of tensors.

    Small tensors share a slice, large ones are cut.

    Args:
        *lists: Contiguous tensors, their sizes the same in every list.

    Yields:
        One list of flat views per list.
    """
    most = NUMBERS_PER_THREAD * torch.get_num_threads()
    views: list[tuple[Tensor, ...]] = []
    filled = 0
    for tensors in zip(*lists, strict=True):
        for parts in zip(*(tensor.view(-1).split(most) for tensor in tensors), strict=True):
            if views and filled + parts[0].numel() > most:
                yield tuple(map(list, zip(*views, strict=True)))
                views, filled = [], 0
            views.append(parts)
            filled += parts[0].numel()
    if views:
        yield tuple(map(list, zip(*views, strict=True)))
