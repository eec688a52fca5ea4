"""Memory that training takes on each device, by arithmetic, before anything is allocated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from datamodules.common.memory import GIB

MOST_RANKS = 1024


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """The parts of one device's memory in a step; the state is divided among sharded ranks."""

    parameters: int
    """Of the whole network."""
    activations: float = 0.0
    """Bytes that the backward pass of one device's batch needs, recomputation considered."""
    logits: float = 0.0
    """Bytes of scores and their gradient that exist at once, and the like."""
    gathered: float = 0.0
    """Bytes of weights that are whole at once, in the type of the computation, if sharded."""
    copied: float = 0.0
    """Bytes of the copies that autocast keeps of all weights, if they are not sharded."""
    assumes: str = ""
    """Settings that the numbers hold for, in words."""
    moments: int = 2
    """Numbers that the optimizer keeps per parameter."""
    bytes_per_state: int = 4
    """Of a weight, a gradient, a moment."""

    def parts(self, ranks: int, *, sharded: bool = True) -> dict[str, float]:
        """Return the bytes of each part on one of the ranks, by name."""
        state = self.parameters * self.bytes_per_state / (ranks if sharded else 1)
        parts = {"weights": state, "gradients": state, "moments": self.moments * state}
        parts |= {"activations": self.activations, "logits": self.logits}
        return parts | ({"gathered weights": self.gathered} if sharded else {"copies": self.copied})

    def on_each(self, ranks: int, *, sharded: bool = True) -> float:
        """Return the bytes on one of the ranks."""
        return sum(self.parts(ranks, sharded=sharded).values())

    def text(self, ranks: int, *, sharded: bool = True) -> str:
        """Return the sum and its parts in words."""
        parts = self.parts(ranks, sharded=sharded).items()
        words = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts if size)
        return f"{self.on_each(ranks, sharded=sharded) / GIB:.1f} GiB ({words})"

    def fewest_ranks(self, available: float) -> int | None:
        """Return how many sharded ranks are enough, a power of two; ``None``: no number is."""
        counts = (2**power for power in range(int(math.log2(MOST_RANKS)) + 1))
        return next((count for count in counts if self.on_each(count) <= available), None)

    def shortage(
        self, available: float, ranks: int, *, sharded: bool = True, kind: str = "device"
    ) -> str | None:
        """Return one line if a device has too little memory.

        Args:
            available: Bytes of the smallest device.
            ranks: Devices that take part.
            sharded: The state is divided among them, as FSDP2 does.
            kind: What a device is called.

        Returns:
            The arithmetic and a way out; ``None`` if there is enough.
        """
        if self.on_each(ranks, sharded=sharded) <= available:
            return None
        enough = self.fewest_ranks(available)
        advice = "take a smaller --data.batch_size, or recompute more activations"
        if enough is not None:
            few = f"{enough} {kind}" + "s" * (enough > 1)
            advice = f"take {few} with --trainer.strategy fsdp2, or another preset"
        return (
            f"each {kind} would need {self.text(ranks, sharded=sharded)}, but has "
            f"{available / GIB:.1f} GiB; {advice}"
        )
