"""site.yaml read again by a running agent: whole files only, and of the same site."""

from __future__ import annotations

import pytest

from sites.reread import SETTLED_S, SiteFile
from sites.settings import load_site
from tests.sites.builders import write_site

RULES = "policy: {operations: [train], hold_for_human: true}\n"


@pytest.fixture
def at(tmp_path):
    """A site's file, what watches it, and a clock that stands still until it is told."""
    path, clock = write_site(tmp_path, extra=RULES), [0.0]
    file = SiteFile(path, load_site(path), lambda: clock[0])

    def look(seconds: float = 0.0):
        clock[0] += seconds
        return file.changed()

    assert look(SETTLED_S) is None
    return path, look


def test_half_of_an_edit_is_not_taken_for_the_file(at):
    """The first bytes of a policy are a policy, with fewer rules."""
    path, look = at
    whole = path.read_text().replace("[train]", "[train, evaluate]")
    path.write_text(whole[: whole.index(", hold_for_human")] + "}\n")
    assert look() is None
    path.write_text(whole)
    assert look() is None

    site = look(SETTLED_S)

    assert site is not None
    assert site.settings.policy.hold_for_human
    assert look(SETTLED_S) is None


def test_a_link_that_leads_to_another_folder_is_another_site(at, tmp_path):
    """State, ledger and kill switch lie beside the file: an agent does not move to others while it runs."""
    path, look = at
    other = write_site(tmp_path / "other", extra=RULES, epsilon=9.0)
    path.unlink()
    path.symlink_to(other)
    assert look() is None

    assert look(SETTLED_S) is None


@pytest.mark.parametrize("store", ["file:x%00y", "nonsense:"])
def test_a_store_that_is_none_ends_no_agent(at, store):
    """Whatever is wrong in the file, the agent goes on as before."""
    path, look = at
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(f"store: {store}\n" if line.startswith("store:") else line for line in lines))
    assert look() is None

    assert look(SETTLED_S) is None
