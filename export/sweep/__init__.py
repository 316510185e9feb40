"""Many runs from one file: its points, what of them is done, and where they are carried out. Trains nothing itself."""
