"""Models measured next to one another: time and memory."""
