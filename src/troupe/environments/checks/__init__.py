"""Checks of environments: the interface, observations, and `troupe check`."""
