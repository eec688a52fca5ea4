"""The name that users write, ``modules.ssd.SSDModule``; the code is in detection."""

from modules.detection.ssd.module import SSDModule as SSDModule
