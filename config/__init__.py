"""What Lifebeat ships beside its code: the job file, the defaults, the schemas."""
