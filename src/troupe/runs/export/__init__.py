"""An agent as an ONNX file, and whether that file is the policy."""
