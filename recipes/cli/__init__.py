"""The command line that all recipes share."""
