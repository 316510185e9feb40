"""A run's folder, written and read in one place: its files, checkpoints, metrics and curves."""
