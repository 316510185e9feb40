"""A model under trial by `student-clap check`, in a process of its own that is ended when it takes too long.

The clauses themselves are `export.model`'s.
"""
