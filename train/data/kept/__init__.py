"""What the trainer keeps of the store from one epoch to the next: the room it takes, and the memory that is shared."""
