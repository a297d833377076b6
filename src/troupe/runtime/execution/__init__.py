"""Threads and processes: who runs where, what pauses, stops and watches them."""
