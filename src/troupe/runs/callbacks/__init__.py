"""Callbacks of a run: the user's, and those that bring its metrics to a tracker."""
