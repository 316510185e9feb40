"""Where a store lies: a directory or a bucket, its locks and its errors. Knows nothing of tracks or mels."""
