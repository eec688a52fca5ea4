"""Variants of a training step: their names, how they are set, and a table of their speed."""

from __future__ import annotations

import difflib
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import torch
from torch import nn

from callbacks.compilation import compile_net, compiled_parts, put_back
from callbacks.warm_up import LAYOUTS
from recipes.cli.find import find
from recipes.cli.usage import UsageError

REFERENCE = "eager"
GRAPHS = ("reduce-overhead", "max-autotune")
WORDS = (REFERENCE, "compile", *GRAPHS, "channels_last", "bf16", "tf32", "preset")


@dataclass(frozen=True)
class Variant:
    """How a step is computed; by default eagerly in fp32."""

    name: str
    compile_mode: str | None = None
    """Mode of ``torch.compile``; None does not compile."""
    channels_last: bool = False
    bf16: bool = False
    tf32: bool = False
    preset: bool = False
    """Begin with the settings of the configuration instead of the reference's."""
    changes: tuple[Callable[[Any], Any], ...] = ()
    """Own functions (module) -> context manager."""

    def reduced(self, cli: Any) -> bool:
        """Whether products are computed in less than fp32."""
        config = cli.config
        own = "16" in str(config.trainer.precision) or config.warmup.matmul_precision != "highest"
        return self.bf16 or self.tf32 or self.preset and own


def parse_variants(text: str) -> list[Variant]:
    """Read ``--variants``: names with commas between them, words of one with ``+``.

    Args:
        text: Such as ``compile,compile+bf16,my.module.function``.

    Returns:
        The variants in order, each once, the reference first.

    Raises:
        UsageError: If a word is unknown.
    """
    names = [REFERENCE, *(name.strip() for name in text.split(","))]
    return [_variant(name) for name in dict.fromkeys(names) if name]


def _variant(name: str) -> Variant:
    variant = Variant(name)
    for word in name.split("+"):
        variant = replace(variant, **_setting(word, variant))
    return variant


def _setting(word: str, variant: Variant) -> dict[str, Any]:
    if word == REFERENCE:
        return {}
    if word == "compile":
        return {"compile_mode": variant.compile_mode or "default"}
    if word in GRAPHS:
        return {"compile_mode": word}
    if word in WORDS:
        return {word: True}
    if "." in word:
        return {"changes": (*variant.changes, find(word, "--variants"))}
    near = difflib.get_close_matches(word, WORDS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(
        f"--variants: unknown {word!r}{hint} (known: {', '.join(WORDS)}, joined by +, or the "
        "dotted path of a function that takes the module and returns a context manager)"
    )


class Settings:
    """Sets a module to a variant and back.

    Args:
        cli: Module and configuration.
        trainer: That of a finished Lightning round.
        variant: The variant.
    """

    def __init__(self, cli: Any, trainer: L.Trainer, variant: Variant) -> None:
        self.variant, self.trainer = variant, trainer
        self.module: Any = cli.model
        self.net: nn.Module = cli.model.net
        warm_up = cli.config.warmup
        preset = variant.preset
        self._layout = warm_up.memory_format if preset else "contiguous"
        if variant.channels_last:
            self._layout = _channels_last(self.net)
        self._mode = variant.compile_mode
        if preset and self._mode is None and warm_up.compile:
            self._mode = warm_up.compile_mode
        self._precision = warm_up.matmul_precision if preset else "highest"
        if variant.tf32:
            self._precision = "high"
        self._eager = [None for _ in compiled_parts(self.module)]
        self._compiled: list[Any] = []

    def autocast(self) -> Any:
        """Return the context of a forward pass."""
        if self.variant.bf16:
            return torch.autocast(self.trainer.strategy.root_device.type, torch.bfloat16)
        if self.variant.preset:
            return self.trainer.precision_plugin.train_step_context()
        return nullcontext()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Train as the variant within a block; the reference's settings hold after it."""
        net: Any = self.net
        _set(net, self._layout, self._precision)
        put_back(self.module, self._compiled or self._eager)
        if self._mode is not None and not self._compiled:
            compile_net(self.module, self._mode)
            self._compiled = compiled_parts(self.module)
        try:
            with ExitStack() as stack:
                for change in self.variant.changes:
                    stack.enter_context(change(self.module))
                yield
        finally:
            put_back(self.module, self._eager)
            _set(net, "contiguous", "highest")


def _set(net: nn.Module, layout: str, precision: str) -> None:
    # One layout at a time: each leaves tensors of other dimensions as they are.
    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if layout != "contiguous":
        net.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"


def _channels_last(net: nn.Module) -> str:
    volumes = any(weight.dim() == 5 for weight in net.parameters())
    return "channels_last_3d" if volumes else "channels_last"


def summary(milliseconds: list[float], batch_size: int) -> dict[str, float]:
    """Return the figures of a variant's steps."""
    median = statistics.median(milliseconds)
    return {"samples_per_second": 1000 * batch_size / median, "ms_per_step_median": median}
