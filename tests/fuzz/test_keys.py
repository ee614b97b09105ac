"""Keys of the object store: what is spelled by layout.py from any message stays in its folder."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import strategies as st
from pydantic import ValidationError

from infra.errors import StoreError
from infra.store import open_store
from infra.store.base import check_key, is_key
from tasks import layout
from tasks.contracts import Ticket
from tests.fuzz.effort import efforts, tried
from tests.fuzz.test_messages import body_of

TRICKS = [
    "..", "../../x", "/etc/passwd", "a/../../b", "a/./b", "a//b", "a\x00b", "a\nb", "%2e%2e/x", "..%2f", "a\\..\\b",
    "ａ", "a\u2024\u2024", "\u202e", "CON", "a" * 501, "a/" * 300, "", ".", "~drafts", "sites/south/out/x", "-rf", "*",
]  # fmt: skip


@efforts
def test_a_key_never_leaves_the_store(effort, tmp_path):
    """Whatever the text: an object below the folder, or a StoreError."""
    outside = tmp_path / "outside"
    outside.mkdir()
    store = open_store((tmp_path / "store").as_uri())

    def check(key: str) -> None:
        for call in (lambda: store.put(key, b"x"), lambda: store.get(key), lambda: store.delete(key)):
            try:
                call()
            except StoreError:
                assert not is_key(key) or len(max(key.split("/"), key=len)) > 200
                continue
            assert ".." not in PurePosixPath(check_key(key)).parts
        assert list(outside.iterdir()) == []
        assert sorted(p.name for p in tmp_path.iterdir()) == ["outside", "store"]

    parts = st.lists(st.sampled_from(["..", ".", "a", "outside", "~drafts", "", "%2e"]), max_size=5).map(
        "/".join
    )
    tried(effort, 60, st.one_of(st.sampled_from(TRICKS), parts, st.text(max_size=30)), check)


@efforts
def test_every_name_that_a_ticket_may_hold_makes_a_key_of_its_own_site(effort):
    """A run or study of any name that the wire format allows stays in the mailbox it was sent to."""
    good = body_of(Ticket).model_dump()

    def check(fields: tuple[str, str, int, int]) -> None:
        run, study, round_, attempt = fields
        try:
            ticket = Ticket.model_validate(
                good | {"run": run, "study": study, "round": round_, "attempt": attempt}
            )
        except ValidationError:
            return
        key = layout.ticket_key(ticket)
        assert key.startswith("sites/north/in/tickets/")
        assert layout.answer_key(ticket, "receipt.json").startswith("sites/north/out/")
        if round_ < 10**5:
            assert layout.round_of_ticket(key) == round_

    names = st.one_of(
        st.sampled_from([*TRICKS, "toy-1"]), st.from_regex(r"[a-z0-9_/.-]{1,70}", fullmatch=True)
    )
    numbers = st.one_of(st.integers(-1, 100), st.sampled_from([10**5, 10**9, 10**400]))
    tried(effort, 100, st.tuples(names, names, numbers, numbers), check)


def test_a_round_of_many_digits_sorts_nowhere_near_the_others():
    """Keys sort as text: a study has at most MAX_ROUNDS rounds, which five digits hold."""
    from tasks.study import MAX_ROUNDS

    assert len(str(MAX_ROUNDS)) <= 5


@pytest.mark.parametrize(
    "name", ["x.json", "-.json", "00001", "0x001-01-train.json", "٠٠٠٠١-01-train.json", "-1-1-x"]
)
def test_a_key_that_no_hub_has_put_there_has_no_round(name):
    """The store may list anything; a hub that sweeps must not fall over it."""
    found = layout.round_of_ticket(f"sites/north/in/tickets/toy-1/{name}")

    assert found is None or name.startswith(f"{found:05d}")
