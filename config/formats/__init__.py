"""Formats that strangers may have written, each read through one door: JSON, YAML, .npz."""
