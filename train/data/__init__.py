"""From the store to a batch: selection, order, reading, segments, augmentation. No network and no optimiser."""
