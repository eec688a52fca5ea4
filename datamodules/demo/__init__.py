"""Writers of small data sets in the same on-disk layout as the real ones."""
