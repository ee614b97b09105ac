"""Hub: play the steps of a round in lockstep with its sites, each a secure sum of its own.

Hub and sites look at a few overwritten objects in the store (beats.py); there is
no ticket, flow or task run for a step. A step: vectors arrive, the list of them
is shown, shares come back, the sum is opened, the parameters move, one
conditional write commits it. Where all sites are there, the list of all is
opened at once (secagg/whole.py). Where one is missing that gives no sign of life, the
others sign a list without it first (secagg/onesum.py); which one, is written down once.
"""

from __future__ import annotations

import logging
from base64 import b64decode
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from infra.hub import Hub
from infra.orchestrator import show, step, timed
from infra.store.base import Versioned
from tasks import layout, parameters
from tasks.aggregation.descent import stepped
from tasks.beats import Beat, Given, Said, Stepped
from tasks.codes import Code
from tasks.collect import load_parameters
from tasks.contracts import Card, Ticket
from tasks.errors import LeaseError, QuorumError, SecureSumError
from tasks.follow import Again, Answer, Follower
from tasks.going import keep_going
from tasks.lease import keep
from tasks.opening import recovered_by
from tasks.plan import RoundPlan
from tasks.privacy.shared import mechanism_of
from tasks.quorum import too_few
from tasks.registry import site_card
from tasks.relay import find_relayed, read_relayed, relay
from tasks.sealed import open_from_site
from tasks.seats import Seats, is_silent, verifier
from tasks.secagg.fixedpoint import numbers_in
from tasks.secagg.lists import consenting, survivors_of
from tasks.secagg.masks import MaskStream
from tasks.secagg.messages import Consent, Survivors, Unmasking
from tasks.secagg.relayed import Listed
from tasks.stepterms import descent_for
from tasks.waiting import Waiting
from tasks.walked import Walk, Walked, take, walk_of

log = logging.getLogger(__name__)

LOOK_S = 0.25  # between two looks at a site's receipt, its sign of life and its membership
REMOTE_LOOK_S = 2.0  # the same, where each is a way over the network
SHOW_S = 2.0  # between two words to Prefect
FIRST_REST_S, LONGEST_REST_S, GROWTH = 0.001, 0.05, 1.3  # between two looks, as long as nothing comes
REMOTE_REST_S = 0.02  # the first, where a look is a way over the network


@step(name="lockstep")
def walk_round(
    hub: Hub, plan: RoundPlan, seats: Seats | None, tickets: dict[str, Ticket], again: Again
) -> Walked | None:
    """Play all steps of a round that are not committed yet; None where a round is one step.

    Raises:
        QuorumError: too few sites are there for a step; those that are committed stay so.
        LeaseError: another hub has taken the study.
        RunCancelledError: somebody has cancelled the run.
    """
    if seats is None or plan.study.steps == 1:
        return None
    raw = load_parameters(hub, plan.manifest, plan.base_key, plan.base_sha256)
    walk = walk_of(hub, plan.study, plan.manifest.run, plan.round, raw)
    lockstep = Lockstep(hub, plan, seats, tickets, again, walk)
    rest = longest = min(hub.pause, LONGEST_REST_S)
    first = REMOTE_REST_S if hub.remote else FIRST_REST_S
    while not lockstep.over:
        rest = first if lockstep.look() else min(rest * GROWTH, longest)
        if not lockstep.over:
            hub.wait(rest)
    summed = seats.summed(walk.survivors or "")
    return Walked(walk, lockstep.tickets, lockstep.lost, frozenset(lockstep.late), summed)


class Lockstep:
    """The hub's part in the steps of one round: `look` does what can be done now."""

    def __init__(
        self,
        hub: Hub,
        plan: RoundPlan,
        seats: Seats,
        tickets: Mapping[str, Ticket],
        again: Again,
        walk: Walk,
    ):
        self._hub, self._plan, self._seats, self._walk = hub, plan, seats, walk
        self._cohort, self._verify = seats.dealt.cohort, verifier(hub, seats.members)
        waiting = Waiting(plan.study.needed)
        self._followers = {
            site: Follower(hub, ticket, again, waiting, for_people=True) for site, ticket in tickets.items()
        }
        self.lost: dict[str, Code] = {
            site: plan.left_out.get(site, Code.NO_SEAT) for site in self._cohort.dealt if site not in tickets
        }
        self._failed: list[Answer] = []
        # not in the last step, and not waited for in the next
        self.late = set(self._cohort.dealt) - (walk.there or set(self._cohort.dealt))
        self._look_at = self._shown_at = 0.0
        self._tags: dict[str, str] = {}
        self._cards: dict[str, Card | None] = {}
        self._length = parameters.flat(parameters.from_bytes(walk.raw)).size
        run = mechanism_of(plan.study, self._length)
        self._scale, self._descent = run.scale_bits, descent_for(plan.study, self._length)
        self._begin()

    @property
    def over(self) -> bool:
        return self._walk.over

    @property
    def tickets(self) -> dict[str, Ticket]:
        """The newest attempts."""
        return {site: follower.ticket for site, follower in self._followers.items()}

    def look(self) -> bool:
        """Look once at everything; True where something came of it."""
        hub = self._hub
        keep(hub, self._plan.study.name)
        keep_going(hub, self._plan.manifest.run)
        if hub.now() >= self._look_at:
            self._look_at = hub.now() + (REMOTE_LOOK_S if hub.remote else LOOK_S)
            self._cards.clear()
            self._look_at_sites()
        with timed("list"):
            asked = [site for site in self._followers if site not in self.lost and self._could_move(site)]
            words = hub.of_each(self._newest, asked)
            heard = [self._hear(site, word) for site, word in zip(asked, words, strict=True)]
        if self._survivors is None:
            return self._list() or any(heard)
        if not (self._whole or self._consents) and self._agree(self._survivors):
            return True
        return self._open() or any(heard)

    def _begin(self) -> None:
        """The next step, or the end of the steps."""
        plan, walk = self._plan, self._walk
        run, number = plan.manifest.run, walk.done + 1
        self._said: dict[str, Said] = {}
        self._vectors: dict[str, bytes] = {}
        self._survivors: Survivors | None = None
        self._consents: tuple[Consent, ...] | None = None
        self._began_at, self._enough_at = self._hub.now(), float("inf")
        self._silent: set[str] = set()
        self._tried: list[Unmasking] = []  # shares that did not open the sum
        self._base = parameters.from_bytes(walk.raw)
        key = layout.step_parameters_key(run, plan.round, walk.done, walk.sha256)
        self._given = Given.of(walk.raw, key if walk.done else plan.base_key)
        self._whole = not (self.late or self.lost)
        if walk.over:
            self._show()
            return
        self._sum = plan.study.secure_aggregation.sum_of(
            self._cohort,
            plan.round,
            "update",
            walk.sha256,
            self._length,
            self._scale,
            step=number,
        )
        chosen = find_relayed(self._hub, run, plan.round, self._part)
        if chosen is not None:
            self._survivors, self._whole = read_relayed(self._hub, chosen, Listed).survivors, False
        if self._began_at - self._shown_at >= SHOW_S:
            show("Running", f"step {number} of {plan.study.steps}")
            self._shown_at = self._began_at
        self._show()

    @property
    def _part(self) -> str:
        return f"list-step-{self._walk.done + 1:05d}"

    def _show(self) -> None:
        plan = self._plan
        beat = Beat(
            run=plan.manifest.run,
            round=plan.round,
            cohort_sha256=self._cohort.sha256,
            step=self._walk.done + 1,
            given=self._given,
            whole=self._whole,
            survivors=self._survivors,
            consents=self._consents,
        )
        with timed("beat"):
            self._hub.write(layout.beat_key(beat.run, beat.round), beat)

    def _look_at_sites(self) -> None:
        """Who has refused, or gives no sign of life while the others wait."""
        for site, follower in self._followers.items():
            if site in self.lost or site in self._vectors:
                continue
            answer = follower.look()
            if answer is not None and not answer.ok:
                log.warning("site %s is not in the next steps: %s", site, answer.code)
                self.lost[site] = answer.code or Code.NO_ANSWER
                self._failed.append(answer)
            elif self._enough_at < self._hub.now() and is_silent(self._hub, site):
                self._silent.add(site)
        here = [site for site in self._cohort.dealt if site not in self.lost or site in self._vectors]
        if len(here) < self._least and self._survivors is None:
            raise self._too_few(len(here), "are there")
        if all(self._hub.now() >= follower.ticket.expires_at for follower in self._followers.values()):
            raise self._too_few(len(self._vectors), "were there in time")

    @property
    def _least(self) -> int:
        return max(self._seats.threshold, self._cohort.terms.min_cohort)

    def _too_few(self, count: int, what: str) -> QuorumError:
        why = f"step {self._walk.done + 1}: {count} sites {what}, {self._least} are needed"
        return too_few(self._hub, self._plan, count, self._failed, why=why)

    def _could_move(self, site: str) -> bool:
        """False where nothing that the site could say now would bring the step on: it has said its part."""
        said, survivors = self._said.get(site), self._survivors
        if said is None or (survivors and said.masked_sha256 != survivors.masked.get(site)):
            return True
        if survivors is None:
            return False  # its vector is here, and others are waited for
        part = said.unmasking if self._whole or self._consents else said.consent
        return part is None or part.survivors_sha256 != survivors.sha256

    def _place(self, site: str) -> str:
        return layout.answer_key(self._followers[site].ticket, "step.json")

    def _newest(self, site: str) -> Versioned | None:
        """A site's word, where it is another than the last one that was heard."""
        key = self._place(site)
        return self._hub.store.get_if_changed(key, self._tags.get(key))

    def _card(self, site: str) -> Card | None:
        """Looked up as often as the sites are looked at: a site that is revoked is heard no longer than that."""
        if site not in self._cards:
            self._cards[site] = site_card(self._hub, site)
        return self._cards[site]

    def _hear(self, site: str, found: Versioned | None) -> bool:
        """Take in a site's newest word, if it is on this step; True where it was."""
        if found is None:
            return False
        key = self._place(site)
        self._tags[key] = found.tag
        said = open_from_site(self._hub, found.data, Said, self._card(site), key)
        place = (self._sum.run, self._sum.round, self._sum.step, self._sum.sha256)
        if (
            said is None
            or said.site != site
            or not names_itself(said)
            or (said.run, said.round, said.step, said.sum_sha256) != place
            or not self._holds(site, said)
        ):
            return False
        self._said[site] = said
        return True

    def _holds(self, site: str, said: Said) -> bool:
        """True where the vector is there that the site names; it is named once."""
        if site in self._vectors:
            return said.masked_sha256 == self._said[site].masked_sha256
        size = self._sum.vector_bytes
        try:
            raw = b64decode(said.vector, validate=True) if said.vector is not None else None
        except ValueError:
            return False
        if raw is None:
            place = layout.answer_key(self._followers[site].ticket, "step.masked")
            raw = self._hub.store.get(place, size)
        if raw is None or len(raw) != size or parameters.sha256(raw) != said.masked_sha256:
            self._tags.pop(layout.answer_key(self._followers[site].ticket, "step.json"), None)  # look again
            return False
        self._vectors[site] = raw
        return True

    def _list(self) -> bool:
        """Show the list of vectors as soon as all are there that are waited for."""
        masked = {site: self._said[site].masked_sha256 for site in self._vectors}
        missing = set(self._cohort.dealt) - set(masked)
        if len(masked) < self._least:
            return False
        self._enough_at = min(self._enough_at, self._hub.now())
        held = {site for site, follower in self._followers.items() if follower.waits_for_people}
        if missing - set(self.lost) - self.late - self._silent - held and not self._impatient():
            return False
        survivors = survivors_of(self._cohort, self._sum, masked)
        self._whole = not missing and all(said.whole for said in self._said.values())
        if not self._whole:
            listed = Listed(survivors=survivors)
            _, listed = relay(self._hub, self._sum.run, self._plan.round, self._part, listed)
            survivors = listed.survivors
        self._survivors, self.late = survivors, missing
        self._show()
        return True

    def _impatient(self) -> bool:
        """True where the study's grace for those who are slower than the others is over."""
        grace = self._plan.study.grace
        until = self._enough_at + (grace or 0.0) * (self._enough_at - self._began_at)
        return grace is not None and self._hub.now() >= until

    def _agree(self, survivors: Survivors) -> bool:
        """Show the signatures as soon as there are enough under the list."""
        given = [said.consent for said in self._said.values() if said.consent is not None]
        if len(given) < self._seats.threshold:
            return False
        if len(consenting(self._cohort, survivors, given, self._verify)) < self._seats.threshold:
            return False
        self._consents = tuple(given)
        self._show()
        return True

    def _open(self) -> bool:
        """Commit the step as soon as there are enough shares."""
        survivors, said = self._survivors, self._said
        if survivors is None or not all(
            site in said and said[site].masked_sha256 == digest for site, digest in survivors.masked.items()
        ):
            return False  # the list was shown by an earlier life: not all of its vectors are read yet
        given = [word.unmasking for word in said.values() if word.unmasking is not None]
        shares = [part for part in given if part.survivors_sha256 == survivors.sha256]
        if len(shares) < self._seats.threshold or shares == self._tried:
            return False
        try:
            with timed("sum"):
                opened = recovered_by(self._seats, self._sum, survivors, shares)
        except SecureSumError as exc:
            log.warning("step %d: %s", self._sum.step, exc)
            self._tried = shares
            return False
        with timed("sum"):
            total = np.zeros(self._sum.length, dtype="<u8")
            for site in survivors.masked:
                np.add(total, np.frombuffer(self._vectors[site], dtype="<u8"), out=total)
            MaskStream(opened.seeds, 64).apply(total)
        self._commit(survivors, numbers_in(total, self._sum.scale_bits))
        return True

    def _commit(self, survivors: Survivors, values: NDArray[np.float64]) -> None:
        """Take the step, and write it down once.

        Raises:
            LeaseError: another hub has committed this step.
        """
        hub, walk = self._hub, self._walk
        with timed("commit"):
            new = stepped(self._base, values, self._descent)
            raw = parameters.to_bytes(new)
            number, sha256 = walk.done + 1, parameters.sha256(raw)
            key = layout.step_parameters_key(walk.run, walk.round, number, sha256)
            given = Given.of(raw, key)
            if given.key is not None:
                hub.store.put_if_absent(key, raw)
            mine = Stepped(
                run=walk.run,
                round=walk.round,
                step=number,
                before=walk.last,
                survivors=survivors,
                given=given,
                moved=float(np.linalg.norm(parameters.flat(new) - parameters.flat(self._base))),
            )
            place = layout.step_key(walk.run, walk.round, number)
            if not hub.write_once(place, mine) and hub.read(place, Stepped) != mine:
                raise LeaseError(f"{place} was committed by another hub. That step holds; this hub stops.")
        take(hub, walk, mine)
        self._begin()


def names_itself(said: Said) -> bool:
    """True where a site's consent or shares are in its own name: no member speaks for another."""
    return all(part is None or part.site == said.site for part in (said.consent, said.unmasking))
