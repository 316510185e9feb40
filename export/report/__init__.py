"""The figures of `evaluate` as a page: tables, charts, words. Computes no figure."""
