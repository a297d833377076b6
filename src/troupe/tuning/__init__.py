"""`troupe tune`: a search for better settings, with Optuna."""
