"""Pure functions and values: the recipe, where segments start, how a track becomes a strip, decibels as one byte. No
files, no Zarr.
"""
