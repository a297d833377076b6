"""The algorithm: pure functions on tensors. No environment, thread or file is known here."""
