"""Teacher vectors into rows of the store, without a row twice. Downloads nothing."""
