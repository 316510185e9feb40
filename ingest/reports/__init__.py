"""Reports to a user: the summary of a run, the inventory of a store, the comparison with a teacher (`--probe`), and the
search for vectors of two models. Changes nothing.
"""
