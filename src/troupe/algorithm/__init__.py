"""The algorithm: pure functions on tensors, which know nothing of environments, threads or files."""
