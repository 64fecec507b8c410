"""``dashboard.py --publish``: what is given back equals the truth, and tells of no group below the threshold."""

from __future__ import annotations

import csv
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publish import publishable
from test_dashboard import project, run, server

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from lifebeat.testing import PostHogServer
    from project import Project

__all__ = ["project", "server"]  # fixtures
COUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 200))
# Two weeks, in each of which one platform and one Python are rare; 3 leave one version and 5 join another.
WEEKS = [
    ["2027-03-01", "1.0.0", "linux", "3.12", 204],
    ["2027-03-01", "1.1.0", "linux", "3.12", 33],
    ["2027-03-01", "1.1.0", "win32", "3.11", 4],
    ["2027-03-08", "1.0.0", "linux", "3.12", 201],
    ["2027-03-08", "1.1.0", "linux", "3.12", 38],
    ["2027-03-08", "1.2.0", "win32", "3.13", 9],
]
SHOWN = """\
week,breakdown,group,installations,multiple_of
2027-03-01,all,all,240,10
2027-03-01,version,1.0.0,200,10
2027-03-01,version,1.1.0,40,10
2027-03-01,platform,other,240,10
2027-03-01,python,other,240,10
"""


@given(COUNTS, st.integers(2, 20))
def test_numbers_are_near_the_truth_and_add_up(counts: dict[str, int], threshold: int) -> None:
    """Each group that is shown is less than the threshold away from its number, and all rows are the rounded total."""
    shown = publishable(counts, threshold)
    assert sum(shown.values()) == sum(counts.values()) // threshold * threshold
    hidden = sum(n for name, n in counts.items() if name not in shown)
    for name, n in shown.items():
        assert n % threshold == 0 < n
        assert abs(n - (hidden if name == "other" else counts[name])) < threshold
    assert all(counts[name] >= threshold for name in shown if name != "other")
    assert hidden >= threshold or "other" not in shown


def test_two_weeks_compared_reveal_no_small_group() -> None:
    """Who tries every truth that fits what was published finds no number that must be a group below the threshold.

    Threshold 3, and four groups whose names every reader knows. Looked at are the rows, what each leaves of its week's
    total, and every difference of two of these between two weeks.
    """
    threshold, most = 3, 18
    fits: dict[tuple[tuple[str, int], ...], list[tuple[int, ...]]] = defaultdict(list)
    for counts in itertools.product(range(most), repeat=4):
        if sum(counts) < most:  # beyond it not every truth would be tried
            there = {name: n for name, n in zip("abcd", counts, strict=True) if n}
            fits[tuple(publishable(there, threshold).items())].append((*counts, sum(counts)))

    def small(found: Iterable[int]) -> bool:
        found = set(found)
        return found <= set(range(1, threshold)) or found <= set(range(1 - threshold, 0))

    numbers: set[frozenset[int]] = set()
    for truths in (truths for shown, truths in fits.items() if shown):
        for place in range(5):
            numbers.add(frozenset(truth[place] for truth in truths))
            numbers.add(frozenset(truth[4] - truth[place] for truth in truths))
    assert len(numbers) > 20
    assert not any(map(small, numbers))
    for before, after in itertools.product(numbers, repeat=2):
        assert not small(a - b for a, b in itertools.product(before, after))


def test_two_breakdowns_compared_reveal_no_small_group() -> None:
    """Nor does who holds the versions of a week against its platforms: both add up to the same total."""
    threshold, most = 3, 12
    shown_by_total: dict[int, list[tuple[tuple[int, ...], str]]] = defaultdict(list)
    for counts in itertools.product(range(most), repeat=3):
        there = {name: n for name, n in zip("abc", counts, strict=True) if n}
        shown_by_total[sum(counts)].append((counts, str(publishable(there, threshold))))
    numbers: dict[tuple[int, str, str, int], set[int]] = defaultdict(set)
    for total in range(threshold, most):
        for (ours, one), (theirs, other) in itertools.product(shown_by_total[total], repeat=2):
            found = [*ours, *(total - n for n in (*ours, *theirs)), *theirs]
            for place, number in enumerate(found):
                numbers[total // threshold, one, other, place].add(number)
    assert len(numbers) > 1000
    assert not [place for place, found in numbers.items() if found <= set(range(1, threshold))]


def test_exact_numbers_would_reveal_them() -> None:
    """The same reader finds small groups where numbers are exact or only the small rows are left out."""
    exact = [{"a": 25, "b": 12}, {"a": 22, "b": 12}]
    assert exact[0]["a"] - exact[1]["a"] == 3
    assert publishable(exact[0], 10)["a"] - publishable(exact[1], 10)["a"] == 0
    assert publishable({"a": 25, "b": 4}, 10) == {"other": 20}  # 29 in all and a row of 25 would be a group of 4


def test_page_and_csv(server: PostHogServer, project: Project, tmp_path: Path) -> None:
    """The week is there with its rounded groups, small ones joined; nothing is changed in the project."""
    project.results = WEEKS[:3]
    project.scopes = {"query:read"}
    code, out, err = run(server, "--publish", str(tmp_path / "site"), "--name", "Notes & more")
    assert (code, err, out) == (0, "", f"1 week added to {tmp_path}/site/counts.csv\n")
    assert (tmp_path / "site/counts.csv").read_text() == SHOWN
    page = (tmp_path / "site/index.html").read_text()
    assert "<th>1.0.0</th><td>200</td>" in page
    assert "<h1>Notes &amp; more: installations</h1>" in page
    assert "multiple of 10" in page
    assert "win32" not in page
    assert (project.changes, len(project.queries)) == ([], 1)
    assert sorted(path.name for path in (tmp_path / "site").iterdir()) == ["counts.csv", "index.html"]


def test_a_published_week_stays(server: PostHogServer, project: Project, tmp_path: Path) -> None:
    """Events that arrive late do not change it, so that no second version shows how many they were."""
    project.results = WEEKS[:3]
    run(server, "--publish", str(tmp_path))
    project.results = [["2027-03-01", "1.0.0", "linux", "3.12", 999], *WEEKS[3:]]
    assert run(server, "--publish", str(tmp_path))[1].startswith("1 week added")
    rows = list(csv.reader((tmp_path / "counts.csv").read_text().splitlines()))
    assert "\n".join(map(",".join, rows)).startswith(SHOWN.strip())
    assert ["2027-03-08", "version", "1.0.0", "200", "10"] in rows
    assert run(server, "--publish", str(tmp_path))[1].startswith("0 weeks added")


def test_names_that_senders_chose(server: PostHogServer, project: Project, tmp_path: Path) -> None:
    """What no version, platform or Python is called is joined with the others: no markup, and no formula in a cell."""
    names = ("<script>", "=1+1", "", "other", "a,b", "x" * 99)
    project.results = [["2027-03-01", name, name, name, 20] for name in names]
    project.results += [
        ["2027-03-01", *both, n] for *both, n in (("2.0", "linux", "3.12", 20), ("1.0", "darwin", "3.11", 50))
    ]
    assert run(server, "--publish", str(tmp_path))[0] == 0
    rows = list(csv.reader((tmp_path / "counts.csv").read_text().splitlines()))[1:]
    assert {tuple(row[2:4]) for row in rows if row[1] == "version"} == {("other", "140"), ("1.0", "50")}
    assert {row[2] for row in rows} == {"all", "other", "1.0", "darwin", "3.11"}
    assert "script" not in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
    ("there", "threshold", "words"),
    [
        (SHOWN, "15", "was published with --threshold 10"),
        ("a,b\n", "10", "is no file that this script wrote"),
        (SHOWN + "half", "10", "is no file that this script wrote"),
    ],
)
def test_a_directory_that_holds_something_else(
    server: PostHogServer, tmp_path: Path, there: str, threshold: str, words: str
) -> None:
    """Another threshold or another's file is refused, and nothing is written."""
    (tmp_path / "counts.csv").write_text(there)
    code, _, err = run(server, "--publish", str(tmp_path), "--threshold", threshold)
    assert (code, words in err, "Traceback" in err) == (1, True, False)
    assert (tmp_path / "counts.csv").read_text() == there
    assert not (tmp_path / "index.html").exists()


def test_too_few_are_nothing(server: PostHogServer, project: Project, tmp_path: Path) -> None:
    """A week with fewer installations than the threshold has no row, and the page says so."""
    project.results = [["2027-03-01", "1.0.0", "linux", "3.12", 9]]
    assert run(server, "--publish", str(tmp_path))[0] == 0
    assert len((tmp_path / "counts.csv").read_text().splitlines()) == 1
    assert "No week has enough" in (tmp_path / "index.html").read_text()


def test_a_key_that_may_not_query(server: PostHogServer, project: Project, tmp_path: Path) -> None:
    """The scope that is missing is named."""
    project.scopes = {"project:write", "dashboard:write", "insight:write"}
    code, _, err = run(server, "--publish", str(tmp_path))
    assert (code, "'query:read'" in err) == (1, True)


@pytest.mark.parametrize("given", ["1", "ten", "-5"])
def test_a_threshold_that_hides_nobody(given: str, tmp_path: Path) -> None:
    """It is a mistake of usage."""
    code, _, err = run(None, "--publish", str(tmp_path), "--threshold", given)
    assert (code, "is no threshold" in err) == (2, True)


def test_a_dry_run_shows_the_query(server: PostHogServer, tmp_path: Path) -> None:
    """It prints the query, and asks and writes nothing."""
    code, out, _ = run(server, "--publish", str(tmp_path), "--dry-run", key="")
    assert (code, "HogQLQuery" in out, server.requests, list(tmp_path.iterdir())) == (0, True, [], [])
