"""A run's folder, written and read in one place: its files, checkpoints, metrics, curves, and the table of all runs."""
