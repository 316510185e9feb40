"""What every stage stands on: files that appear whole, text for a screen, signals, worker threads, the machine.
Knows nothing of settings, music or models.
"""
