"""A checkpoint becomes an ONNX file: writing, folding, batch axis, waveform input, quantisation and their gates."""
