"""Shared by the benchmarks: schedules, optimizers, checks, checkpoint readers."""
