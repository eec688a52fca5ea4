"""What several benchmarks share: schedules, optimizers, checks, checkpoint readers."""
