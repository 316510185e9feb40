"""What ingest tells a user beside its closing line: the inventory, the probe of the teacher, the look for two
populations. Changes nothing.
"""
