"""Progress displays, rows of metrics, plots and their labels."""
