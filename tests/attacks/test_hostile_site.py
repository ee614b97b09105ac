"""What a site that is enrolled, and lies, can do to the hub and to the others: leave itself out, no more."""

from __future__ import annotations

from sites.deliver import HEADER_SLACK
from tasks.collect import HEADER_SLACK as HUB_SLACK
from tests.attacks.insider import SITE, Insider, in_training


def left_out(result, code: str) -> None:
    """Every round went on without it, and the record says why."""
    assert all(r["cohort"] == ["east", "north"] for r in result["rounds"])
    assert {r["sites"][SITE]["code"] for r in result["rounds"]} == {code}


def test_the_hub_leaves_a_site_as_much_room_as_the_site_takes():
    """Two bounds of one thing: what a site's gate lets out, the hub reads."""
    assert HUB_SLACK == HEADER_SLACK


def test_an_update_larger_than_the_parameters_is_not_read(tmp_path):
    """A receipt may promise a tebibyte; the parameters say how much is read of it."""
    read: list[int] = []

    class Counting:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def get(self, key, *limit):
            data = self.inner.get(key, *limit)
            if key.startswith(f"sites/{SITE}/out/"):
                read.append(len(data or b""))
            return data

    insider = Insider(
        tmp_path,
        in_training(
            lambda r: r.model_copy(update={"update": r.update.model_copy(update={"payload_bytes": 2**40})})
        ),
        update=lambda data: data + bytes(20_000_000),
    )
    hub = insider.federation.hub
    hub.__dict__["store"] = Counting(hub.store)

    left_out(insider.run(rounds=1), "bad_update")
    assert max(read) < 600_000


NO_RECEIPTS = {
    "oversized": bytes(5_000_000),
    "nested": b"[" * 200_000,
    "deep": b'{"a":' * 80_000,
    "pickle": b"\x80\x04junk",
    "null": b"null",
    "half": b'{"signer": "south"}',
}


def test_a_receipt_that_is_no_message_leaves_the_site_out(tmp_path):
    """Also one that would fill the hub's memory, or its stack: another one in each round."""
    raws = list(NO_RECEIPTS.values())

    result = Insider(tmp_path, lambda receipt: raws[receipt.round - 1]).run(rounds=len(raws))

    left_out(result, "bad_signature")
