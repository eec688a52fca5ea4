"""One LightningModule per benchmark: training and validation steps, metrics and the optimizer."""

from modules.common import moved

moved.install()
