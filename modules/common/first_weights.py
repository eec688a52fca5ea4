"""First weights whose bits depend on seed and name only, in whole tensors and in any rank's shares.

A network of many billion parameters cannot be built whole on each rank: it is built without memory
(``torch.device("meta")``), sharded, and only then filled.
"""

import hashlib

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

BLOCK = 1 << 20  # numbers that one generator draws; a share draws whole blocks


@torch.no_grad()
def draw_normal(parameter: Tensor, std: float, *, seed: int, name: str) -> None:
    """Fill a tensor, or this rank's rows of it, with independent normal numbers.

    Devices of another kind draw other numbers, as torch's generators do.

    Args:
        parameter: At least one dimension; sharded along the first, if at all.
        std: Standard deviation; the mean is 0.
        seed: The run's.
        name: The tensor's, unique in the network.
    """
    first, own = _rows(parameter)
    rows = max(1, BLOCK // max(1, own[:1].numel() if len(own) else 1))
    for start in range(first - first % rows, first + len(own), rows):
        stop = min(start + rows, len(parameter))
        block = torch.empty((stop - start, *own.shape[1:]), dtype=own.dtype, device=own.device)
        block.normal_(std=std, generator=_generator(own.device, f"{seed}/{name}/{start}"))
        low, high = max(start, first), min(stop, first + len(own))
        own[low - first : high - first] = block[low - start : high - start]


def _rows(parameter: Tensor) -> tuple[int, Tensor]:
    """Return this rank's rows and the number of the first."""
    if not isinstance(parameter, DTensor):
        return 0, parameter
    _, offset = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    return offset[0], parameter.to_local()


def _generator(device: torch.device, text: str) -> torch.Generator:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest) >> 1)
