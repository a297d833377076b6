"""What a run tells: progress, pictures, tables of many runs."""
