"""Shared pure pieces (losses, schedules, optimizers, samplers of windows and boxes), one subject a file."""
