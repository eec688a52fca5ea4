"""The name that users write, ``modules.maskrcnn.MaskRCNNModule``; the code is in detection."""

from modules.detection.maskrcnn.module import MaskRCNNModule as MaskRCNNModule
