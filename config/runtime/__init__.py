"""The ground that every stage stands on: files that appear whole, text for a screen, signals, worker threads, the
machine, and which files are audio. Knows nothing of settings or models.
"""
