"""One server's HTTP client: retries, bodies, credentials, errors. Tracks and files on disk do not belong here."""
