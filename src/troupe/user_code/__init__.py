"""The user's code: callables from Python files, and handling of the errors they raise."""
