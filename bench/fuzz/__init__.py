"""Fuzzing of what reads foreign data: one module per target, each with a TARGET; `registry` lists them."""
