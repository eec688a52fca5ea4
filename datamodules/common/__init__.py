"""Shared by the data sets: sampling, preparation, shards, cache."""
