"""A model file of any maker, teacher or student: reading its graph, which input it takes, running it. No store is
written here, and nothing is known of AudioMuse-AI's contract.
"""
