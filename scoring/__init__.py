"""What happens after runs: check, score, compare, package and report (``python -m scoring``)."""
