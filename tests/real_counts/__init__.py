"""Data sets with their real numbers of items, each tiny: what preparation costs per item."""
