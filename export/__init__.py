"""ONNX out: export, the drop-in contract, evaluation, report."""
