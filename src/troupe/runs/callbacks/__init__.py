"""Callbacks of a run: the user's own, and those that send its metrics to a tracker."""
