"""What a run leaves behind, written and read in one place: its directory, checkpoints, metrics, curves and tables."""
