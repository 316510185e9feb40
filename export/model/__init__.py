"""A model file at work: its session, the drop-in contract, which input it takes, its metadata, the run that it is of,
embedding with it. Builds no graph.
"""
