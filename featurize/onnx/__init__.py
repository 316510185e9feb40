"""A model file of anybody's: reading its graph, which input it takes, running it. Teachers and students alike; no store
is written here, and nothing is known of AudioMuse-AI's contract.
"""
