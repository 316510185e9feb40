"""What lies in Zarr: the track table, the features, the segment vectors, their metadata and shards. Opens nothing by
itself; `store.feature_store` is the door.
"""
