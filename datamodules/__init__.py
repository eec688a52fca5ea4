"""One LightningDataModule per data set: checks, preprocessing and reading of the real layout."""
