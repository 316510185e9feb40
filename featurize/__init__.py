"""decode -> 48 kHz mono -> log-mel -> strip, one Dask task per few tracks. Needs no torch."""
