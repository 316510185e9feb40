"""Models measured beside one another: time and memory."""
