"""The reference networks in plain torch, one file per benchmark."""
