"""What a bell says beside ringing."""

from __future__ import annotations

import pytest

from tasks.membership import bell, word_rung

ONCE = "0123456789abcdef"


def test_a_bell_names_the_newest_word_on_the_site():
    """So that a site fetches it when it is new, and not with every ticket."""
    assert word_rung(bell(ONCE, 7)) == 7


@pytest.mark.parametrize("raw", [bell(ONCE, 0), ONCE.encode(), b"", b"7", b"0123456789abcdef 7 ", bytes(600)])
def test_a_bell_without_a_number_names_none(raw):
    """Of a hub of the version before, or of nobody: then the site looks each time."""
    assert word_rung(raw) is None
