"""The arrays of a store in Zarr: the track table, the features, the segment vectors, their metadata and shards. None of
this opens a store; `store.feature_store` does.
"""
