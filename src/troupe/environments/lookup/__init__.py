"""Finds an environment by its id, its file or its callable."""
