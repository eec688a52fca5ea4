"""From runs to a result: check, score, compare, package and report (``python -m scoring``)."""
