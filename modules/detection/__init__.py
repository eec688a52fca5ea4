"""What SSD and Mask R-CNN share, and their folders."""
