"""Keeping the notes tidy."""

from lifebeat import JobContext


def empty_bin(context: JobContext, days: int) -> None:
    """Delete what has been in the bin for that many days; called as the job file says."""
    print(f"emptied the bin of what is older than {days} days, for the run of {context.instant:%H:%M:%S}", flush=True)


def save() -> None:
    """Save open notes; called as scheduler.py says."""
    print("saved", flush=True)
