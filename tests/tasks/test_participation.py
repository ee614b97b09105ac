"""The report of a round: who, who not and why, and whom to look after."""

from __future__ import annotations

import csv
import io

import pytest

from tasks.codes import Code
from tasks.participation import cause, facts, health, lines_of, markdown, table, warnings
from tasks.records import Phases, SiteRound
from tests.rounds import a_record


def missing(code: Code = Code.NO_ANSWER, **more) -> SiteRound:
    return SiteRound(state="missing", code=code, **more)


def with_sites(number: int, **sites: SiteRound):
    record = a_record(number)
    return record.model_copy(
        update={
            "sites": dict(record.sites) | sites,
            "phases": Phases(train=4.0, aggregate=0.5, evaluate=1.0),
        }
    )


def test_a_site_that_is_missing_once_or_twice_raises_no_warning():
    """Machines restart."""
    assert warnings([with_sites(1, west=missing()), with_sites(2, west=missing())]) == []


def test_a_site_that_keeps_missing_is_named_with_the_likely_cause():
    """The third time in a row; rounds in which it was not asked do not count."""
    records = [
        with_sites(1, west=missing()),
        with_sites(2, west=missing()),
        with_sites(3, west=missing(Code.PAUSED_BY_HUB)),
        with_sites(4, west=missing(silent_s=7200.0)),
    ]

    assert warnings(records[:3]) == []
    assert warnings(records) == [
        "west was missing 3 times in a row (no_answer): its agent was last heard of 2 h before; "
        "does it run, can it reach the store?"
    ]


def test_the_largest_site_is_named_when_it_is_missing_for_the_first_time():
    """As far as sites let their number of records be known; the last known band counts."""
    small, large = (SiteRound(state="delivered", records=band) for band in ("50-199", "1000-4999"))
    before = with_sites(1, east=small, north=small, west=large)

    found = warnings([before, with_sites(2, east=small, north=small, west=missing(Code.TRAINING_FAILED))])

    assert found == [
        "the largest site was missing: west (1000-4999 records): its training fails; its own log says where"
    ]
    assert warnings([before]) == []


def test_equal_sites_have_no_largest():
    """A warning in every round would be read in none."""
    equal = {s: SiteRound(state="delivered", records="50-199") for s in ("east", "north", "south", "west")}

    assert warnings([with_sites(1, **equal), with_sites(2, **equal | {"west": missing()})]) == []


def test_a_living_agent_that_was_training_needs_time_and_not_a_restart():
    """The cause follows what the site itself said last."""
    assert "slower than the others" in cause(missing(Code.TOO_LATE, silent_s=3.0))
    assert "last heard of 50 s before" in cause(missing(Code.TOO_LATE, silent_s=50.0))
    assert "training at the deadline" in cause(missing(silent_s=3.0, reached="training"))
    assert "has not taken the ticket" in cause(missing(silent_s=3.0))
    assert "no sign of life" in cause(missing())


def test_the_page_has_a_line_for_each_site_and_for_each_phase():
    """What Prefect shows with the round."""
    page = markdown([with_sites(1, west=missing(), east=SiteRound(state="delivered", records="200-999"))])

    assert "3 of 4 sites" not in page  # a_record's cohort still names all four
    assert "Waiting for updates 4.0 s, aggregating 0.5 s, evaluating 1.0 s." in page
    assert page.count("\n| ") == 5
    assert "`no_answer`: its agent shows no sign of life" in page


def test_the_table_for_mlflow_has_a_line_for_each_site_and_round_newest_first():
    """A spreadsheet opens it."""
    lines = {1: lines_of(with_sites(1)), 2: lines_of(with_sites(2, west=missing()))}

    rows = list(csv.DictReader(io.StringIO(table(lines))))

    assert [row["round"] for row in rows] == ["2"] * 4 + ["1"] * 4
    assert (rows[3]["site"], rows[3]["took part"], rows[3]["code"]) == ("west", "no", "no_answer")


def test_facts_are_json():
    """What `run show --json` prints."""
    shown = facts([with_sites(1, west=missing())])

    assert shown["missing"] == {"west": "no_answer"}
    assert shown["phases_s"] == {"train": 4.0, "aggregate": 0.5, "evaluate": 1.0}


@pytest.mark.parametrize(
    ("said", "shown"),
    [(None, "not looked"), ((), "well"), (("disk_low", "clock_off"), "disk low, clock off")],
)
def test_what_the_sites_doctor_found_is_shown(said, shown):
    """A disk that fills up is seen at the hub before the site drops out."""
    site = SiteRound(state="delivered", health=said)

    assert health(site) == shown


def test_a_warning_says_what_the_sites_own_doctor_found_last():
    """A site that is gone cannot say it any more; what it said before is in the records."""
    ill = SiteRound(state="delivered", health=("disk_low", "clock_off"))
    records = [with_sites(1, west=ill), *(with_sites(n, west=missing(silent_s=1e4)) for n in (2, 3, 4))]

    assert warnings(records)[0].endswith("; its doctor said last: disk low, clock off")
