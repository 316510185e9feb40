"""Figures of a student on held-out tracks, text search included. Draws nothing."""
