"""Actors on several hosts: one process of ours on each host forks the actors there, and ships their rollouts here."""
