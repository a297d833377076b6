"""Evaluations, and what follows from them: the best weights, the target, a collapse."""
