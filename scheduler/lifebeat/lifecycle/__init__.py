"""Start, run, stop: one process's part in the life of an application."""
