"""A site's own keys for the secure sums of a run: kept before anything that hangs on them leaves.

`sums/RUN/` in the state folder holds, for each setup, the seat (one secret, from
which all keys come) and, once the cohort is known, what the others have dealt
to this site. A site that loses them sits out until the next setup.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from infra.keyfile import replace_private
from sites.outbox import SUMS
from tasks.codes import Code
from tasks.contracts import Message
from tasks.errors import RefusedError
from tasks.secagg.messages import Terms
from tasks.secagg.relayed import Dealt
from tasks.secagg.setup import Member, Seat, Verify, join, signed, take_seat

MOST_SEATS = 1000  # of one run: a hub that asks for ever more keys fills no disk

M = TypeVar("M", bound=Message)


class Seats:
    """The seats of one run at one site."""

    def __init__(self, state: Path, run: str):
        self._folder = state / SUMS / run

    def take(self, terms: Terms, site: str) -> Seat:
        """The seat of these terms: the one that was taken before, or a new one, on disk when this returns.

        Raises:
            RefusedError: sum_refused: the hub asks for more seats than any run needs.
        """
        known = self.find(terms.sha256)
        if known is not None:
            return known
        seat = take_seat(terms, site)
        self._keep(f"{terms.sha256}.seat.json", seat)
        return seat

    def find(self, terms_sha256: str) -> Seat | None:
        return _read(self._folder / f"{terms_sha256}.seat.json", Seat)

    def join(self, dealt: Dealt, verify: Verify) -> Member:
        """The site as a member of a cohort; opened once, and on disk when this returns.

        Raises:
            RefusedError: sum_refused: this site has no seat for it.
            SecureSumError: the cohort is not one to join.
        """
        name = f"{dealt.cohort.sha256}.member.json"
        member = _read(self._folder / name, Member)
        if member is None:
            seat = self.find(dealt.cohort.terms.sha256)
            if seat is None:
                raise RefusedError(
                    Code.SUM_REFUSED, "this site has no keys for this sum: it was away at the setup"
                )
            member = join(seat, dealt.cohort, dealt.announcements, dealt.dealings, verify)
            self._keep(name, member)
        if not all(signed(a, site, a.signature, verify) for site, a in member.announcements.items()):
            raise RefusedError(Code.SUM_REFUSED, "a member's keys are not approved here any more")
        return member

    def member(self, cohort_sha256: str) -> Member | None:
        return _read(self._folder / f"{cohort_sha256}.member.json", Member)

    def _keep(self, name: str, secret: Message) -> None:
        kind = name.rpartition(".json")[0].rpartition(".")[2]
        if self._folder.exists() and sum(1 for _ in self._folder.glob(f"*.{kind}.json")) >= MOST_SEATS:
            raise RefusedError(Code.SUM_REFUSED, f"the run has asked for {MOST_SEATS} sets of keys already")
        replace_private(self._folder / name, secret.model_dump_json().encode())


def _read(path: Path, model: type[M]) -> M | None:
    """What was kept; None where it is gone or torn: then the site has no seat."""
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
