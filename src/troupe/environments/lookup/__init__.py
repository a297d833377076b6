"""From an id, a file or a callable to a factory of environments."""
