"""Agents playing to be watched: rendering, the panel, videos, windows, terminals."""
