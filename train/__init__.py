"""Students, losses, streaming batches, the loop."""
