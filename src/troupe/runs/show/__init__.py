"""An agent at play: frames, films, windows, terminals."""
