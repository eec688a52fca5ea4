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
    "modules.dlrm.auc": "modules.recommendation.auc",
    "modules.dlrm.fused_embedding": "modules.recommendation.fused_embedding",
    "modules.dlrm.picture": "modules.recommendation.picture",
    "modules.nets": None,
    "modules.nets.bert": "modules.bert.net",
    "modules.nets.dlrm": "modules.dlrm.net",
    "modules.nets.maskrcnn": "modules.detection.maskrcnn.net",
    "modules.nets.maskrcnn_backbone": "modules.detection.maskrcnn.backbone",
    "modules.nets.masked_lm_adapter": "modules.bert.transformers_adapter",
    "modules.nets.minigo": "modules.minigo.net",
    "modules.nets.resnet": "modules.resnet.net",
    "modules.nets.rnnt": "modules.rnnt.net",
    "modules.nets.ssd": "modules.detection.ssd.net",
    "modules.nets.torchvision_detectors": "modules.detection.torchvision_detectors",
    "modules.nets.unet3d": "modules.unet3d.net",
    "modules.ops": None,
    "modules.ops.anchors": "modules.detection.maskrcnn.anchors",
    "modules.ops.auc": "modules.recommendation.auc",
    "modules.ops.audio_features": "modules.rnnt.audio_features",
    "modules.ops.batch_norm_sync": "modules.common.batch_norm_sync",
    "modules.ops.bert_checkpoint": "modules.bert.checkpoint",
    "modules.ops.box_coding": "modules.detection.maskrcnn.box_coding",
    "modules.ops.boxes": "modules.detection.boxes",
    "modules.ops.check_net": "modules.common.check_net",
    "modules.ops.coco_ap": "modules.detection.coco_ap",
    "modules.ops.coco_metric": "modules.detection.coco_metric",
    "modules.ops.default_boxes": "modules.detection.ssd.default_boxes",
    "modules.ops.detection_picture": "modules.detection.picture",
    "modules.ops.detector_contract": "modules.detection.contract",
    "modules.ops.dice": "modules.unet3d.dice",
    "modules.ops.ema": "modules.rnnt.ema",
    "modules.ops.fused_embedding": "modules.recommendation.fused_embedding",
    "modules.ops.greedy_decoding": "modules.rnnt.greedy_decoding",
    "modules.ops.instance_masks": "modules.detection.maskrcnn.instance_masks",
    "modules.ops.interaction": "modules.dlrm.interaction",
    "modules.ops.lamb": "modules.common.lamb",
    "modules.ops.lars": "modules.resnet.lars",
    "modules.ops.masked_lm": "modules.bert.masked_lm",
    "modules.ops.minigo_checkpoint": "modules.minigo.checkpoint",
    "modules.ops.playing_nets": "modules.minigo.inference",
    "modules.ops.region_matching": "modules.detection.maskrcnn.region_matching",
    "modules.ops.roi_heads": "modules.detection.maskrcnn.roi_heads",
    "modules.ops.rpn": "modules.detection.maskrcnn.rpn",
    "modules.ops.sample_noise": "modules.rnnt.sample_noise",
    "modules.ops.schedules": "modules.common.schedules",
    "modules.ops.sliding_window": "modules.unet3d.sliding_window",
    "modules.ops.snappy": "modules.common.snappy",
    "modules.ops.sparse_sgd": "modules.dlrm.sparse_sgd",
    "modules.ops.spec_augment": "modules.rnnt.spec_augment",
    "modules.ops.speed_perturbation": "modules.rnnt.speed_perturbation",
    "modules.ops.ssd_heads": "modules.detection.ssd.heads",
    "modules.ops.tensor_bundle": "modules.common.tensor_bundle",
    "modules.ops.transducer": "modules.rnnt.transducer",
    "modules.ops.varlen_attention": "modules.bert.varlen_attention",
    "modules.ops.word_errors": "modules.rnnt.word_errors",
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
