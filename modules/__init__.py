"""One LightningModule per benchmark: training and validation steps, metrics and the optimizer."""
