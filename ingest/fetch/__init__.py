"""Audio for the rows that lack it: what to fetch, the download workers, and the check for a wrong server."""
