"""The teacher's ONNX over the segments of a track. No store is written here."""
