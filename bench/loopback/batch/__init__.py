"""Batch systems without their servers: the commands of each, over jobs that are processes of this machine."""
