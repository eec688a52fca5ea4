"""Object detection: SSD, Mask R-CNN and what both share."""
