"""Shared pure pieces (losses, schedules, optimizers, windows and boxes), one subject a file."""
