"""Actors on several hosts: one process on each host forks the actors there and sends their rollouts to the run."""
