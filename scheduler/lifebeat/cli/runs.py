"""The commands about runs of jobs: what has run, and what is to run or not to run."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from lifebeat import steering
from lifebeat.cli import console, options
from lifebeat.cli.console import DONE, PROBLEM
from lifebeat.errors import ConfigError, LifebeatError
from lifebeat.schedule.instants import SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from lifebeat.cli.application import Application
    from lifebeat.cli.options import CommandLine
    from lifebeat.clock import Clock
    from lifebeat.history import Run
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.steering import Answer

    Order = Callable[[Path | None, JobSpec, Clock], Answer]


def add_commands(line: CommandLine) -> None:
    """Add the commands of this family."""
    showing = line.add("runs", runs)
    showing.add_argument("job", metavar="JOB", nargs="?", help="only this job")
    showing.add_argument("--failed", action="store_true", help="only runs that did not end well, and missed ones")
    showing.add_argument(
        "--since", metavar="DURATION|TIME", type=moment, help="such as 24h, or 2027-03-01T09:30 in UTC"
    )
    showing.add_argument(
        "--count", type=options.count, metavar="N", default=50, help="how many runs, newest first (default 50)"
    )

    line.add("start", start).add_argument("job", metavar="JOB", help="such as nightly-report")
    pausing = line.add("pause", pause)
    pausing.add_argument("job", metavar="JOB", help="such as nightly-report")
    pausing.add_argument(
        "--until",
        metavar="DURATION|TIME",
        type=partial(moment, ahead=True),
        help="such as 12h, or 2027-03-01T09:30 in UTC; without, until it is resumed",
    )
    pausing.add_argument("--why", metavar="TEXT", help="why, for those who see it paused")
    line.add("resume", resume).add_argument("job", metavar="JOB", help="such as nightly-report")


def moment(text: str, *, ahead: bool = False) -> float:
    """Read a moment, in seconds since the epoch; a duration is so long ago, or ahead."""
    from lifebeat.clock import SystemClock
    from lifebeat.text.durations import parse_duration

    try:
        seconds = parse_duration(text).total_seconds()
        return SystemClock().time() + (seconds if ahead else -seconds)
    except ValueError as error:
        return _time(text, str(error))


def _time(text: str, otherwise: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        message = f"{text!r} {otherwise}; or a time such as 2027-03-01T09:30"
        raise argparse.ArgumentTypeError(message) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


_HEADINGS = ("began (UTC)", "job", "planned for", "outcome", "took", "attempts", "process", "reason")


def runs(args: argparse.Namespace) -> int:
    """Show the runs of jobs, newest first: when, for which instant, how they ended, and why."""
    from lifebeat import history
    from lifebeat.cli.application import Application

    application = Application(args)
    if application.unseen:
        raise LifebeatError(f"what ran cannot be seen: {application.unseen}")
    state, since = application.state_dir(create=False), args.since or 0.0
    found = history.read(state, job=args.job, since=since, failed=args.failed, limit=args.count)
    if not found and args.job is not None:
        check_job(application, args.job, history.read(state, limit=history.KEPT_RUNS))
    if args.json:
        console.say_json(list(map(as_dict, found)))
    elif found:
        console.say(console.table(_HEADINGS, map(_row, found)))
    else:
        console.say("no such run is remembered" if application.settings.run_history else "runs are not remembered")
    return DONE


def start(args: argparse.Namespace) -> int:
    """Run a job of the application's own now, paused or not, within 2 s; its next planned run stays where it is.

    With `once: application` one process runs it, else each that is running. If none runs within ten minutes it is void.
    """
    return _steer(args, steering.start)


def pause(args: argparse.Namespace) -> int:
    """Let a job not run until then, or until it is resumed; what comes meanwhile is not made up for."""
    return _steer(args, partial(steering.pause, until=args.until, why=args.why))


def resume(args: argparse.Namespace) -> int:
    """Let a job run again that was paused."""
    return _steer(args, steering.resume)


def _steer(args: argparse.Namespace, order: Order) -> int:
    from lifebeat.cli.application import Application

    answer = steer(Application(args), args.job, order)
    if args.json:
        console.say_json({"job": args.job, "done": answer.done, "message": answer.words})
    elif answer.done:
        console.say(answer.words)
    else:
        raise LifebeatError(answer.words)
    return DONE if answer.done else PROBLEM


def steer(application: Application, job: str, order: Order) -> Answer:
    """Give an order for a job, and return what became of it.

    Raises:
        LifebeatError: There is no job of that name, or nothing of Lifebeat.
    """
    from lifebeat import installation

    state = application.state_dir(create=False)
    if not installation.is_one(application.config_dir, state):
        raise LifebeatError(f"{application.config_dir}: nothing of Lifebeat is there; name another with --config DIR")
    found = application.load()
    mistakes = [one for one in found.host_problems if f"job {job!r}" in one.message]
    if mistakes and all(spec.id != job for spec in found.specs):
        raise ConfigError(*mistakes)
    return order(state, steering.find(found.specs, job), application.clock)


def check_job(application: Application, job: str, remembered: Iterable[Run] = ()) -> None:
    """Let the names of jobs pass.

    Raises:
        LifebeatError: There is no job of that name; which one may be meant.
    """
    known = dict.fromkeys((*(spec.id for spec in application.load().specs), *(run.job for run in remembered)))
    if job not in known:
        raise steering.unknown(job, known)


def as_dict(run: Run) -> dict[str, Any]:
    """Return a run for programs."""
    never = run.outcome in {"skipped", "missed"}
    return {
        "job": run.job,
        "instant": console.iso(run.instant / SECOND),
        "begun": None if never else console.iso(run.begun),
        "ended": None if never else console.iso(run.ended),
        "seconds": None if never or run.took is None else round(run.took, 6),
        "outcome": run.outcome,
        "reason": run.reason,
        "attempts": run.attempts,
        "by_hand": run.by_hand,
        "process": run.pid,
    }


def _row(run: Run) -> tuple[Any, ...]:
    shown = as_dict(run)
    took = None if shown["seconds"] is None else f"{run.took:.3f} s"
    began = console.spoken(run.begun) if shown["begun"] else None
    planned = "by hand" if run.by_hand else console.spoken(run.instant / SECOND)
    attempts = run.attempts if run.attempts > 1 else None
    return (began, run.job, planned, run.outcome, took, attempts, run.pid, run.reason)
