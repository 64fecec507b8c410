"""Counts that can be given back to those who sent them: a page and a CSV, without a group below a threshold.

Two rules, for each week and each breakdown of it:

1. Groups below the threshold are joined, with all that have the smallest multiple of it, so that none of those that are
   hidden must be small.
2. Every number is a multiple of the threshold, and the rows of a breakdown add up to the week's total.

So the numbers could themselves be the exact ones, and whatever is added or subtracted, within a week or between two, is
nothing or at least the threshold: nobody can conclude that a group is smaller. A published week stays as it is, since a
second version of it would show what arrived in between.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from html import escape
from typing import TYPE_CHECKING

from projectapi import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

BREAKDOWNS = ("version", "platform", "python")
ALL, OTHER = "all", "other"
LIMIT = 50_000  # what PostHog answers at most
COLUMNS = ["week", "breakdown", "group", "installations", "multiple_of"]
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}")  # senders choose it, and no cell may begin as a formula
Row = tuple[str, str, str, int]

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: installations</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem }}
:root {{ color-scheme: light dark }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
caption {{ text-align: left; font-weight: 600 }}
th, td {{ padding: .15rem 1rem .15rem 0; text-align: left }}
td {{ text-align: right; font-variant-numeric: tabular-nums }}
</style>
<h1>{name}: installations</h1>
<p>What the telemetry of all installations tells, given back to those who sent it. The same as data: <a
href="counts.csv">counts.csv</a>.</p>
{tables}
<h2>How it was counted</h2>
<ul>
<li>By complete week, from Monday to Sunday. Each installation counts once, with what it ran last in that week. Where
its ID changes each month, those count that were heard of in the month of the Thursday; where it has none, the
heartbeats of the Thursday.</li>
<li>Groups of fewer than {threshold} are not shown. They are joined with the smallest that could be shown ("other"), so
that none can say which of them are small.</li>
<li>Every number is a multiple of {threshold}, at most {most} away from what was counted, and the rows of a table add
up to the total. So whatever is added or subtracted, between rows or between weeks, is nothing or {threshold} and more:
no smaller group can be read from it.</li>
<li>A week is published once and does not change; what arrives later is not in it.</li>
<li>Anyone can send events to a public project key: these are counts of what arrived.</li>
</ul>
</html>
"""


def publishable(counts: Mapping[str, int], threshold: int) -> dict[str, int]:
    """Return the groups with numbers that may be published; nothing where all of them together are too few.

    Args:
        counts: How many installations each group has; none has two.
        threshold: The smallest group that may be seen, in installations.
    """
    kept = sorted(
        ((name, n) for name, n in counts.items() if name != OTHER and _NAME.fullmatch(name)),
        key=lambda one: (-one[1], one[0]),
    )
    total = sum(counts.values())
    rest = total - sum(n for _, n in kept)
    while kept and kept[-1][1] < threshold:
        rest += kept.pop()[1]
    bracket = kept[-1][1] // threshold if rest and kept else 0
    while kept and kept[-1][1] // threshold == bracket:
        rest += kept.pop()[1]
    if rest >= threshold:
        kept.append((OTHER, rest))
    shown = {name: n // threshold for name, n in kept}
    remainders = sorted(kept, key=lambda one: -(one[1] % threshold))
    for name, _ in remainders[: total // threshold - sum(shown.values())]:
        shown[name] += 1
    # In an order that tells nothing of what was rounded away.
    return {name: n * threshold for name, n in sorted(shown.items(), key=lambda one: (-one[1], one[0]))}


def rows_of(answer: Iterable[Sequence[object]], threshold: int) -> Iterator[Row]:
    """Yield what may be published of what ``publish.hogql`` found, week by week.

    Raises:
        Problem: The answer is longer than PostHog gives.
    """
    weeks: dict[str, list[tuple[list[str], int]]] = defaultdict(list)
    for number, (week, *groups, count) in enumerate(answer, 1):
        if number == LIMIT:
            raise Problem(f"there are more than {LIMIT} different groups; have publish.hogql ask for fewer weeks")
        weeks[str(week)[:10]].append(([str(one) for one in groups], int(str(count))))
    for week, found in sorted(weeks.items()):
        total = sum(count for _, count in found) // threshold * threshold
        if total:
            yield week, ALL, ALL, total
        for place, breakdown in enumerate(BREAKDOWNS):
            counts: Counter[str] = Counter()
            for groups, count in found:
                counts[groups[place]] += count
            yield from ((week, breakdown, name, n) for name, n in publishable(counts, threshold).items())


def published(path: Path, threshold: int) -> list[Row]:
    """Return the rows of an earlier run; none where there was none.

    Raises:
        Problem: It is no such file, or was made with another threshold.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise Problem(f"{path}: {error}") from None
    try:
        found = [(week, breakdown, name, int(n), int(multiple)) for week, breakdown, name, n, multiple in rows[1:]]
    except ValueError:
        found = None
    if found is None or rows[:1] != [COLUMNS]:
        raise Problem(f"{path} is no file that this script wrote; give another directory")
    others = {multiple for *_, multiple in found} - {threshold}
    if others:
        before = ", ".join(map(str, sorted(others)))
        raise Problem(f"{path} was published with --threshold {before}; two thresholds compared could tell too much")
    return [one[:4] for one in found]


def write(directory: Path, name: str, answer: Iterable[Sequence[object]], threshold: int) -> str:
    """Add the weeks that are not there yet to the page and the CSV; what was done, in words.

    Raises:
        Problem: They cannot be written, or what is there is something else.
    """
    path = directory / "counts.csv"
    before = published(path, threshold)
    last = max((week for week, *_ in before), default="")
    fresh = [row for row in rows_of(answer, threshold) if row[0] > last]
    rows = before + fresh
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *([*row, threshold] for row in rows)])
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "counts.csv.new").write_text(text.getvalue(), encoding="utf-8")
        (directory / "counts.csv.new").replace(path)
        (directory / "index.html").write_text(page(name, rows, threshold), encoding="utf-8")
    except OSError as error:
        raise Problem(f"{directory}: {error.strerror}") from None
    weeks = len({week for week, *_ in fresh})
    return f"{weeks} {'week' if weeks == 1 else 'weeks'} added to {path}"


def page(name: str, rows: Sequence[Row], threshold: int) -> str:
    """Return the page: the last week's groups, and the totals of all weeks."""
    last = max((week for week, *_ in rows), default="")
    tables = [
        _table(f"{breakdown.capitalize()}, week of {last}", [(group, n) for _, _, group, n in found])
        for breakdown in BREAKDOWNS
        if (found := [row for row in rows if row[:2] == (last, breakdown)])
    ]
    totals = [(week, n) for week, breakdown, _, n in reversed(rows) if breakdown == ALL]
    tables.append(_table("Installations by week", totals) if totals else "<p>No week has enough installations yet.</p>")
    return PAGE.format(name=escape(name), tables="\n".join(tables), threshold=threshold, most=threshold - 1)


def _table(caption: str, rows: Iterable[tuple[str, int]]) -> str:
    body = "\n".join(f"<tr><th>{escape(group)}</th><td>{n:,}</td></tr>" for group, n in rows)
    return f"<table>\n<caption>{escape(caption)}</caption>\n{body}\n</table>"
