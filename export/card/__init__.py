"""What lies beside a model that leaves the house: its card, its space's identity, its checksums. No model is run."""
