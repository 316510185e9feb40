"""A file as AudioMuse-AI's production hears it: decoding, resampling, the log-mel. No store, no cluster."""
