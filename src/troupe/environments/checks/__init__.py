"""What can be wrong with an environment, and how it is said."""
