"""Everything that imports APScheduler."""
