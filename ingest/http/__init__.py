"""One server's HTTP client: retries, bodies, credentials, errors. Knows nothing of tracks or files on disk."""
