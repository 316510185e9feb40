"""Audio files that came: where they lie, part files, downloads, the disk budget. Knows no server's protocol."""
