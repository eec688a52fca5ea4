"""The name that users write, ``modules.maskrcnn.MaskRCNNModule``; the code is in modules/detection/maskrcnn."""

from modules.detection.maskrcnn.module import MaskRCNNModule as MaskRCNNModule
