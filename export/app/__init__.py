"""AudioMuse-AI's side: its model folder, its table of vectors, a whole library embedded again."""
