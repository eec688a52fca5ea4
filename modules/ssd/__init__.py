"""The name that users write, ``modules.ssd.SSDModule``; the code is in modules/detection/ssd."""

from modules.detection.ssd.module import SSDModule as SSDModule
