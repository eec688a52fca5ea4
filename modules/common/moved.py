"""Old dotted paths that keep working until 0.4, each with one line on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Old module -> new one. ``None``: an old folder that only held such modules.
MOVED: dict[str, str | None] = {
    "modules.nets": None,
    "modules.nets.bert": "modules.bert.net",
    "modules.nets.dlrm": "modules.dlrm.net",
    "modules.nets.maskrcnn": "modules.detection.maskrcnn.net",
    "modules.nets.masked_lm_adapter": "modules.bert.transformers_adapter",
    "modules.nets.minigo": "modules.minigo.net",
    "modules.nets.resnet": "modules.resnet.net",
    "modules.nets.rnnt": "modules.rnnt.net",
    "modules.nets.ssd": "modules.detection.ssd.net",
    "modules.nets.torchvision_detectors": "modules.detection.torchvision_detectors",
    "modules.nets.unet3d": "modules.unet3d.net",
    "modules.ops": None,
    "modules.ops.fused_embedding": "modules.dlrm.fused_embedding",
    "modules.ops.sliding_window": "modules.unet3d.sliding_window",
    "modules.ops.transducer": "modules.rnnt.transducer",
    "recipes._benchmark": "recipes.cli.benchmark",
    "recipes._cli": "recipes.cli.main",
}


def new_path(path: str) -> str:
    """Return today's dotted path of a class or module, unchanged if it did not move."""
    module, _, name = path.rpartition(".")
    if new := MOVED.get(path):
        return new
    new = MOVED.get(module)
    return f"{new}.{name}" if new else path


class _Moved(MetaPathFinder, Loader):
    """Imports the new module under the old name."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in MOVED:
            return None
        return ModuleSpec(name, self, is_package=MOVED[name] is None)

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        if new := MOVED[old]:
            print(f"{old} is now {new}; the old name works until 0.4", file=sys.stderr)
            sys.modules[old] = import_module(new)  # importlib returns what is here afterwards


def install() -> None:
    """Let imports find the old names; repeated calls change nothing."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
