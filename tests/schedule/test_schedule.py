"""When jobs run: instants that every process computes alike, with nothing skipped and nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifebeat.schedule.instants import (
    EPOCH,
    MICROSECOND,
    SECOND,
    Grid,
    Single,
    jitter_of,
    spread,
    to_datetime,
    to_instant,
    zone,
)
from lifebeat.schedule.triggers import At, AtShutdown, AtStart, Cron, Every, instants_of

if TYPE_CHECKING:
    from lifebeat.schedule.instants import Instants
    from lifebeat.schedule.triggers import Phase, Trigger

NOON = to_instant(datetime(2026, 3, 1, 12, tzinfo=UTC))
HOUR = 3600 * SECOND
INTERVALS = st.timedeltas(min_value=MICROSECOND, max_value=timedelta(days=3660))
MOMENTS = st.integers(-(10**15), 4 * 10**15)


def made(trigger: Trigger, *, job_id: str = "beat", seed: str = "s", started_at: float = 0.0) -> Instants:
    """The instants of a trigger that has some."""
    found = instants_of(trigger, job_id=job_id, seed=seed, started_at=started_at)
    assert found is not None
    return found


def offset(phase: Phase, interval: timedelta = timedelta(hours=24), *, job_id: str = "beat", seed: str = "s") -> int:
    """How far a phase shifts the grid."""
    grid = made(Every(interval, phase), job_id=job_id, seed=seed, started_at=1_767_225_601.25)
    assert isinstance(grid, Grid)
    return grid.offset


# -- moments and instants --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.datetimes(timezones=st.sampled_from([UTC, ZoneInfo("Europe/Stockholm"), timezone(timedelta(hours=-9))])))
def test_an_instant_is_a_moment(moment: datetime) -> None:
    """A moment in any time zone, and the instant made of it, are the same to the microsecond."""
    assert to_datetime(to_instant(moment)) == moment.astimezone(UTC)


def test_the_epoch() -> None:
    """Instants count microseconds from the Unix epoch."""
    assert to_instant(EPOCH) == 0
    assert to_instant(datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC)) == SECOND + 5


# -- the grid --------------------------------------------------------------------------------------------------------


def test_the_grid_is_anchored_at_the_epoch() -> None:
    """Every 24 hours is midnight UTC, and every 7 days a Thursday, the weekday of the epoch."""
    day, week = made(Every(timedelta(days=1))), made(Every(timedelta(days=7)))
    assert to_datetime(day.after(NOON) or 0) == datetime(2026, 3, 2, tzinfo=UTC)
    assert to_datetime(week.after(NOON) or 0) == datetime(2026, 3, 5, tzinfo=UTC)
    assert day.latest(0) == week.latest(0) == 0


@settings(deadline=None)
@given(INTERVALS, st.one_of(st.sampled_from(["installation", "start"]), INTERVALS), MOMENTS, st.floats(0, 4e9))
def test_nothing_is_skipped(interval: timedelta, phase: Phase, instant: int, started_at: float) -> None:
    """The next instant is strictly after, the latest is not, and they are one interval apart, whatever the phase."""
    instants = made(Every(interval, phase), started_at=started_at)
    following, latest = instants.after(instant), instants.latest(instant)
    assert following is not None
    assert latest is not None
    assert latest <= instant < following
    assert (following - latest) * MICROSECOND == interval
    assert instants.latest(following) == following
    assert instants.latest(following - 1) == latest
    assert instants.after(latest) == following


@settings(deadline=None)
@given(INTERVALS, MOMENTS, MOMENTS)
def test_no_restart_resets_the_grid(interval: timedelta, first: int, second: int) -> None:
    """Asked at whatever time, by a process started whenever, the instants are those of one grid."""
    early = made(Every(interval, "installation"), started_at=1.0).after(first)
    late = made(Every(interval, "installation"), started_at=2e9).after(second)
    assert early is not None
    assert late is not None
    assert (late - early) % (interval // MICROSECOND) == 0


def test_the_grid_knows_no_summer_time() -> None:
    """Every 24 hours stays 24 hours over the nights in which clocks are put forward and back."""
    for night in (datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)):
        grid = made(Every(timedelta(days=1), timedelta(hours=1)))
        first = grid.after(to_instant(night))
        assert first is not None
        assert grid.after(first) == first + 24 * HOUR


# -- phases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (timedelta(0), 0),
        (timedelta(hours=3), 3 * HOUR),
        (timedelta(hours=24), 0),
        (timedelta(hours=27), 3 * HOUR),
        (timedelta(hours=-1), 23 * HOUR),
        ("start", SECOND + SECOND // 4),
    ],
    ids=str,
)
def test_phase(phase: Phase, expected: int) -> None:
    """A duration shifts the grid by itself, within one interval; ``start`` counts from the process's start."""
    assert offset(phase) == expected


def test_phase_of_the_start() -> None:
    """With ``phase: start`` the first run is one interval after the start, to the microsecond."""
    started = 1_767_225_601.25
    grid = made(Every(timedelta(minutes=7), "start"), started_at=started)
    assert grid.after(int(started * SECOND)) == int(started * SECOND) + 420 * SECOND


def test_phase_of_the_installation_is_its_own() -> None:
    """Installations, and the jobs of one, have phases of their own; interval and ID give the same one each time."""
    assert offset("installation") == offset("installation")
    assert len({offset("installation", seed=str(number)) for number in range(1000)}) == 1000
    assert offset("installation", job_id="a") != offset("installation", job_id="b")
    assert offset("installation", seed="a", job_id="b") != offset("installation", seed="b", job_id="a")


def test_installations_are_spread_evenly() -> None:
    """Of 24,000 installations about a thousand beat in each hour of the day."""
    hours = Counter(offset("installation", seed=f"installation {number}") // HOUR for number in range(24_000))
    assert set(hours) == set(range(24))
    assert all(850 < count < 1150 for count in hours.values())


def test_the_phase_stays_as_it_is() -> None:
    """The phase of an installation is the same in every version: a new one must not move a fleet's heartbeats."""
    seed = "6c62b5ae-9d3c-4f4e-a9ab-8c1f4d1f0e52"
    assert offset("installation", seed=seed, job_id="heartbeat") == 78_793_239_811
    assert jitter_of("heartbeat", seed, NOON, timedelta(hours=1)) == 3_078_986_409


PROGRAM = """
import json, sys
from datetime import timedelta
from lifebeat.schedule.instants import jitter_of
from lifebeat.schedule.triggers import Every, instants_of

found = []
for number in range(50):
    names = {"job_id": f"job {number}", "seed": f"seed {number}"}
    grid = instants_of(Every(timedelta(hours=24), "installation"), **names, started_at=float(sys.argv[1]))
    found.append([grid.after(0), jitter_of(**names, instant=number, jitter=timedelta(minutes=5))])
print(json.dumps(found))
"""


def test_every_process_computes_the_same() -> None:
    """Processes with other hash seeds, time zones and starting times have the same instants and the same jitter."""
    found: list[object] = []
    for hash_seed, timezone_name, started in (("0", "UTC", "0"), ("4242", "Asia/Tokyo", "1767225601.5")):
        environ = {**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": timezone_name}
        command = [sys.executable, "-c", PROGRAM, started]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20, check=True)
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]


# -- jitter ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.text(max_size=20), st.text(max_size=20), MOMENTS, st.timedeltas(timedelta(0), timedelta(days=3660)))
def test_jitter(job_id: str, seed: str, instant: int, jitter: timedelta) -> None:
    """A delay from none up to, and not including, the jitter, and the same one each time."""
    delay = jitter_of(job_id, seed, instant, jitter)
    assert 0 <= delay < max(jitter // MICROSECOND, 1)
    assert jitter_of(job_id, seed, instant, jitter) == delay


def test_jitter_differs_from_run_to_run() -> None:
    """Each run has a delay of its own, spread over the whole width."""
    minute = timedelta(minutes=1)
    delays = [jitter_of("beat", "s", NOON + number * HOUR, minute) for number in range(600)]
    assert len(set(delays)) > 590
    assert min(delays) < 2 * SECOND
    assert max(delays) > 58 * SECOND


@settings(deadline=None)
@given(st.text(), st.integers(1, 10**18))
def test_spread(text: str, width: int) -> None:
    """A number from 0 up to the width."""
    assert 0 <= spread(text, width) < width


# -- other triggers --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(MOMENTS, MOMENTS)
def test_a_single_moment(moment: int, instant: int) -> None:
    """``at`` has one instant: it is ahead, or it is the latest."""
    single = made(At(to_datetime(moment)))
    assert isinstance(single, Single)
    assert single.after(instant) == (moment if moment > instant else None)
    assert single.latest(instant) == (moment if moment <= instant else None)


@pytest.mark.parametrize("trigger", [AtStart(), AtShutdown()], ids=["start", "shutdown"])
def test_start_and_shutdown_have_no_instants(trigger: Trigger) -> None:
    """Start and shutdown are not at any time."""
    assert instants_of(trigger, job_id="a", seed="s", started_at=0.0) is None


def test_cron_is_in_its_time_zone() -> None:
    """The same five fields are another instant in another time zone, in summer and in winter."""
    for name, hour in (("UTC", 3), ("Europe/Stockholm", 1), ("Asia/Kolkata", 21)):
        following = made(Cron("0 3 * * *", name)).after(to_instant(datetime(2026, 7, 1, 12, tzinfo=UTC)))
        assert to_datetime(following or 0).hour == hour
    winter = made(Cron("0 3 * * *", "Europe/Stockholm")).after(NOON)
    assert to_datetime(winter or 0).hour == 2


@pytest.mark.parametrize(
    "name",
    ["", "Europe/Stokholm", "Europe", "../etc/passwd", "/etc/localtime", "a\0b", "x" * 5000],
    ids=["empty", "misspelled", "directory", "outside", "absolute", "zero byte", "long"],
)
def test_no_time_zone(name: str) -> None:
    """What is not the name of a time zone is refused with the name and two that are."""
    with pytest.raises(ValueError, match="is not a time zone; expected one such as Europe/Stockholm or UTC") as caught:
        zone(name)
    assert repr(name) in str(caught.value)
    with pytest.raises(ValueError, match="is not a time zone"):
        made(Cron("0 3 * * *", name))
