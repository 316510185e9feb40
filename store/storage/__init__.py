"""The storage of a store, a directory or a bucket, with its writer's lock and its errors. It knows of no track."""
