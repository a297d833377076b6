"""The moving parts: actors fill rollouts, a queue carries them, learners improve the weights."""
