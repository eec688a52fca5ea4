"""The clock, the quality target, the log and the run record: none knows a benchmark's name."""
