"""Export of an agent to ONNX, and the check that the file computes the policy."""
