"""ONNX out: export, the drop-in contract, evaluation and report, deploy and rollback, reembed."""
