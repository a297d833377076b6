"""A page that shows runs while they go on (`troupe dashboard`), and one run as a single file (`troupe report`)."""
