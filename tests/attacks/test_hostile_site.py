"""What a site that is enrolled, and lies, can do to the hub and to the others: leave itself out, no more."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from infra.store.base import MESSAGE_BYTES
from sites.deliver import HEADER_SLACK
from tasks import parameters
from tasks.codes import Code, Operation
from tasks.collect import HEADER_SLACK as HUB_SLACK
from tasks.contracts import Presence, Receipt
from tasks.metrics import LENGTH
from tests.attacks.insider import SITE, Insider, in_training
from tests.attacks.liar import Liar
from tests.fuzz.test_parameters import BOMBS


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


def test_lies_in_a_receipt_leave_the_site_out(tmp_path):
    """Each signed with the site's own key: another round, another site, two answers at once, a forged digest."""

    def lie(receipt: Receipt) -> Receipt:
        update = receipt.update
        assert update is not None
        return receipt.model_copy(
            update={
                1: {"round": 2},
                2: {"attempt": 2},
                3: {"run": "other-1"},
                4: {"ticket_sha256": "0" * 64},
                5: {"operation": Operation.EVALUATE},
                6: {"refusal": Code.EXPIRED},
                7: {"update": None},
                8: {"update": update.model_copy(update={"payload_sha256": "0" * 64})},
                9: {"site": "east"},
            }[receipt.round]
        )

    result = Insider(tmp_path, in_training(lie)).run(rounds=9)

    assert [r["sites"][SITE]["code"] for r in result["rounds"][:7]] == ["bad_update"] * 7
    assert result["rounds"][7]["sites"][SITE]["code"] == "bad_update"
    assert all(r["cohort"] == ["east", "north"] for r in result["rounds"][:8])


def test_bombs_and_tricks_in_an_update_leave_the_site_out(tmp_path):
    """Signed for, of a size that is allowed, and still no arrays of this model."""
    good = parameters.to_bytes({"linear.weight": np.zeros((1, 4), np.float32)})
    payloads = [
        *(
            BOMBS[name]
            for name in ("overlapping", "shape that overflows", "offsets outside", "float64", "metadata")
        ),
        good,
        parameters.to_bytes({"../../x": np.zeros(4, np.float32)}),
        b"\x80\x04\x95junk.",
    ]
    insider = Insider(tmp_path)

    def lie(receipt: Receipt) -> Receipt:
        raw = payloads[receipt.round - 1]
        assert receipt.update is not None
        promised = {"payload_sha256": parameters.sha256(raw), "payload_bytes": len(raw)}
        return receipt.model_copy(update={"update": receipt.update.model_copy(update=promised)})

    insider.lie = in_training(lie)
    insider.update = lambda _: payloads[insider.said.round - 1]

    left_out(insider.run(rounds=len(payloads)), "bad_update")


def test_an_update_that_is_overwritten_after_its_check_leaves_the_site_out(tmp_path):
    """Between the look and the sum: the sum is taken over what was checked, and nobody else loses the round."""
    insider = Insider(tmp_path)
    federation = insider.federation
    reads: list[str] = []

    class Overwritten(Liar):
        def get(self, key: str, limit: int = MESSAGE_BYTES) -> bytes | None:
            if key.startswith(f"sites/{SITE}/out/") and key.endswith("update.safetensors"):
                reads.append(key)
                if len(reads) > 1:
                    self.inner.put(key, bytes(148))
            return super().get(key, limit)

    federation.hub.__dict__["store"] = Overwritten(federation.hub.store)

    left_out(insider.run(rounds=1), "bad_update")
    assert len(reads) == 2


def test_scores_that_nobody_can_have_are_not_pooled(tmp_path):
    """Too long, too large, not adding up: the others' metrics stand."""
    wrong = [(), (1,), (0,) * LENGTH, (10**9, *([0] * (LENGTH - 1))), (2**60,) * LENGTH]
    insider = Insider(tmp_path)

    def lie(receipt: Receipt) -> Receipt | None:
        if receipt.scores is None:
            return None
        scores = receipt.scores.model_copy(update={"statistics": wrong[receipt.round - 1]})
        return receipt.model_copy(update={"scores": scores})

    insider.lie = lie
    result = insider.run(rounds=len(wrong))

    assert all(0 <= r["metrics"]["auroc"] <= 1 for r in result["rounds"])
    assert all(len(r["cohort"]) == 3 for r in result["rounds"])


@pytest.mark.parametrize(
    "version", ["[/red]", "\x1b]0;owned\x07", "[link=http://x]1[/link]", "1\n2", "", "1" * 41, "1.0 (x)"]
)
def test_a_version_is_plain_text(version):
    """It is shown in the operator's terminal: no control character, no markup."""
    with pytest.raises(ValidationError):
        Presence(site="south", at=0.0, version=version)
    assert Presence(site="south", at=0.0, version="1.2.3+local.4").version
