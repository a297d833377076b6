"""Environments stepped together, and what is put around each."""
