"""The clock, the quality target, the MLPerf log and the run record: none of them knows a benchmark's name."""
