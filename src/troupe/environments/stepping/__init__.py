"""Batches of environments that step together, and the wrappers around each."""
