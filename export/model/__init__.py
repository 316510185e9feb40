"""A model file at work: its session, the drop-in contract, which input it takes, its metadata, embedding with it.
Builds no graph.
"""
