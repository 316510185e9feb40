"""The teacher's ONNX over segments. No store is written here."""
