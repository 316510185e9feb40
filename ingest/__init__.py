"""Teacher vectors and audio in: AudioMuse-AI's database, media servers, a folder."""
