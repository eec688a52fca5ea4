"""Many embedding tables as one: one lookup, row-sparse gradients, rows sharded over ranks.

Letters: B rows of a batch, T tables, D width, R rows of all tables, S of one rank's share,
N lookups (B x T).
"""

import itertools
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

INIT_BLOCK_ROWS = 1 << 18
DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}


class FusedEmbedding(nn.Module):
    """One weight that holds all tables; each sample looks up one row of each.

    With a process group, row r of the whole is on rank ``r % world_size``, and lookups travel to
    their owners and back (all-to-all). Gradients of a rank's rows are then already the mean over
    all ranks' losses, so DDP must leave this weight alone: see ``parameters_to_ignore``.

    Source:
        facebookresearch/dlrm @ 6d75c84d, dlrm_s_pytorch.py, create_emb (ranges). Differs: one
        weight, own random stream that does not depend on the number of ranks.
    """

    offsets: Tensor

    def __init__(
        self, table_sizes: Sequence[int], width: int, *, dtype: str = "float32", copies: int = 1
    ) -> None:
        """Allocate this rank's rows and fill them with U(-1/sqrt(n), 1/sqrt(n)), n a table's rows.

        Args:
            table_sizes: Rows of each table.
            width: Elements of a row.
            dtype: ``float32``, ``bfloat16`` or ``float16``.
            copies: What the memory plan counts: 1 for the weight, 2 for an optimizer's sums too.

        Raises:
            ValueError: If the type is unknown, or this rank's share does not fit in memory; the
                message holds the memory plan.
        """
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f"table_dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
        self.table_sizes, self.width, self.copies = tuple(table_sizes), width, copies
        self.rank, self.world_size = _rank_and_world()
        self.num_rows = sum(self.table_sizes)
        self.dtype = DTYPES[dtype]
        probe = torch.empty(0)  # on the default device, which Lightning sets
        _check_memory(self, probe.device)
        num_local = len(range(self.rank, self.num_rows, self.world_size))
        self.weight = nn.Parameter(torch.empty(num_local, width, dtype=self.dtype))
        if self.dtype == torch.float16:
            self.weight.grad_dtype = torch.float32
        starts = [0, *itertools.accumulate(self.table_sizes)]
        self.register_buffer("offsets", torch.tensor(starts[:-1]), persistent=False)
        self.reset_parameters()

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Look up one row per table.

        Args:
            ids_BT: Row of each table, int32 or int64 in ``[0, table_sizes[t])``.

        Returns:
            vectors_BTD: In the weight's type; float32 for float16, in which gradients would vanish.
        """
        rows_N = (ids_BT + self.offsets).flatten()
        if self.world_size > 1:
            vectors_ND = self._look_up_everywhere(rows_N)
        else:
            vectors_ND = self._own_rows(rows_N)
        return vectors_ND.view(*ids_BT.shape, self.width)

    # The number of rows per rank differs in each step: torch.compile would recompile each time.
    @torch.compiler.disable
    def _look_up_everywhere(self, rows_N: Tensor) -> Tensor:
        """Send each lookup to the rank that owns its row and get the vectors back in order."""
        owner_N = rows_N % self.world_size
        order_N = owner_N.argsort(stable=True)
        sent = torch.bincount(owner_N, minlength=self.world_size)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent)
        splits = (sent.tolist(), received.tolist())
        wanted_M = exchange((rows_N // self.world_size)[order_N], *splits)
        vectors_MD = self._own_rows(wanted_M)
        sorted_ND = _ReturnVectors.apply(vectors_MD, *splits)
        return sorted_ND[order_N.argsort()]

    def _own_rows(self, rows_N: Tensor) -> Tensor:
        if self.dtype == torch.float16:
            return _WideGradient.apply(self.weight, rows_N)
        return F.embedding(rows_N, self.weight, sparse=True)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all rows anew; each depends on torch's random state and its number only."""
        seed = int(torch.randint(2**62, (), device="cpu"))
        device = self.weight.device
        if device.type == "meta":
            return
        ends = (self.offsets + torch.tensor(self.table_sizes, device=device)).contiguous()
        bound_T = torch.tensor(self.table_sizes, device=device).float().rsqrt()
        generator = torch.Generator(device)
        for number, start in enumerate(range(0, self.num_rows, INIT_BLOCK_ROWS)):
            rows = torch.arange(start, min(start + INIT_BLOCK_ROWS, self.num_rows), device=device)
            generator.manual_seed((seed + number) % 2**62)
            values = torch.rand((len(rows), self.width), generator=generator, device=device)
            bound = bound_T[torch.searchsorted(ends, rows, right=True)][:, None]
            mine = rows % self.world_size == self.rank
            local = rows[mine] // self.world_size
            self.weight[local] = ((2 * values - 1) * bound)[mine].to(self.dtype)

    def memory_plan(self) -> str:
        """Describe rows and bytes of all tables and of this rank, in one line."""
        size = self.num_rows * self.width * self.dtype.itemsize
        dtype = str(self.dtype).removeprefix("torch.")
        plan = f"embedding tables: {self.num_rows:,} rows x {self.width} {dtype} = {_human(size)}"
        if self.copies > 1:
            size *= self.copies
            plan += f", {_human(size)} with the optimizer's sums"
        if self.world_size == 1:
            return plan
        return f"{plan}, {_human(size / self.world_size)} on each of {self.world_size} devices"

    @torch.no_grad()
    def whole_weight(self) -> Tensor | None:
        """Gather all rows in order on rank 0's CPU (None elsewhere); every rank has to call it."""
        return self.whole(self.weight.detach())

    @torch.no_grad()
    def whole(self, share_SD: Tensor) -> Tensor | None:
        """Do the same for anything that is shared out as the weight is, such as its sums."""
        if self.world_size == 1:
            return share_SD.cpu()
        whole = torch.empty(self.num_rows, self.width, dtype=share_SD.dtype, device="cpu")
        largest = -(-self.num_rows // self.world_size)
        for start in range(0, largest, INIT_BLOCK_ROWS):
            stop = min(start + INIT_BLOCK_ROWS, largest)
            part = share_SD.new_zeros(stop - start, self.width)
            mine = share_SD[start:stop]
            part[: len(mine)] = mine
            parts = [torch.empty_like(part) for _ in range(self.world_size)]
            dist.all_gather(parts, part)
            for rank, rows in enumerate(parts if self.rank == 0 else ()):
                target = whole[rank + start * self.world_size :: self.world_size]
                count = min(len(rows), len(target))
                target[:count] = rows[:count].cpu()
        return whole if self.rank == 0 else None

    def share(self, weight_RD: Tensor) -> Tensor:
        """Take this rank's rows of the whole weight."""
        return weight_RD[self.rank :: self.world_size].clone()


def fused_embeddings(module: nn.Module) -> dict[str, FusedEmbedding]:
    """Find all fused tables inside a module, by dotted name."""
    return {n: m for n, m in module.named_modules() if isinstance(m, FusedEmbedding)}


def parameters_to_ignore(module: nn.Module) -> list[str]:
    """Name the weights that DDP must not reduce, for ``_ddp_params_and_buffers_to_ignore``."""
    return [f"{name}.weight" for name in fused_embeddings(module)]


def exchange(values: Tensor, sent: list[int], received: list[int]) -> Tensor:
    """Send consecutive parts of a tensor to rank 0, 1, ... and concatenate what they send back."""
    out = values.new_empty((sum(received), *values.shape[1:]))
    dist.all_to_all_single(out, values.contiguous(), received, sent)
    return out


# Gradients of a mean over 55,296 rows are around 1e-7; float16 holds nothing below 6e-8.
class _WideGradient(torch.autograd.Function):
    """A lookup with a float32 gradient."""

    @staticmethod
    def forward(ctx: Any, weight_SD: Tensor, rows_N: Tensor) -> Tensor:
        ctx.save_for_backward(rows_N)
        ctx.shape = weight_SD.shape
        return F.embedding(rows_N, weight_SD).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (rows_N,) = ctx.saved_tensors
        with torch.sparse.check_sparse_tensor_invariants(False):  # explicit, so torch does not warn
            return torch.sparse_coo_tensor(rows_N[None], grads[0], ctx.shape), None


class _ReturnVectors(torch.autograd.Function):
    """Sends vectors to the ranks that asked, and gradients of the mean loss to the owners."""

    @staticmethod
    def forward(ctx: Any, vectors_MD: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.splits = sent, received
        return exchange(vectors_MD, received, sent)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        # Each rank's loss is the mean over its own rows; the step is on the mean over all.
        grad = exchange(grads[0], *ctx.splits)
        return grad / dist.get_world_size(), None, None


def _rank_and_world() -> tuple[int, int]:
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def _check_memory(tables: FusedEmbedding, device: torch.device) -> None:
    """Check that the device can hold the tables before any of them is allocated."""
    if device.type == "meta":
        return
    ranks_here = tables.world_size if device.type == "cpu" else 1
    row_bytes = tables.width * tables.dtype.itemsize * tables.copies
    needed = tables.num_rows * row_bytes * ranks_here // tables.world_size
    available = _free_bytes(device)
    if needed > available:
        raise ValueError(
            f"{tables.memory_plan()}; {device.type} has {_human(available)} free: use more devices "
            "(--trainer.devices N --trainer.strategy ddp shards the rows), or in the open division "
            f"{'' if tables.copies > 1 else '--model.net.table_dtype bfloat16, or '}smaller "
            "--model.net.table_sizes (the prepare command prints those that the data needs)"
        )


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _human(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f} GiB"
