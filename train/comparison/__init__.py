"""Runs beside one another: one row for each, and the table of all."""
