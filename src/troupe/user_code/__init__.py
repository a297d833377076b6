"""Code of the user: callables from Python files, and what contains the errors they raise."""
