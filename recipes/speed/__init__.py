"""The ``speed`` command."""
