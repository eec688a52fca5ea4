"""Mini Go's environment: rules, features, search and games, compiled with numba.

The one part of ``datamodules`` that ``modules/minigo.py`` may import: the data comes out of it.
"""
