"""Where the work is done: Dask clusters, batch systems, workers, scheduling, and the task itself."""
