"""The rounds in lockstep that one agent has under way: each goes on a little whenever the agent looks.

What a site does in a step is lockstep.py's story, how a round begins walk.py's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from infra.errors import UploadClosedError
from sites.belonging import Belonging
from sites.desk import Done
from sites.lockstep import Lockstep
from sites.notes import note_refused
from sites.progress import ProgressWriter
from sites.refusing import refusing
from sites.round import finished
from sites.runner import Beat
from sites.settings import Site
from tasks import layout
from tasks.codes import Code, Operation
from tasks.contracts import Ticket
from tasks.errors import RefusedError

log = logging.getLogger(__name__)

Finish = Callable[[Ticket, ProgressWriter, Done], None]
"""Keeps the answer to a ticket, and sends it."""


class Walking(NamedTuple):
    """A round in lockstep that is under way."""

    ticket: Ticket
    progress: ProgressWriter
    lockstep: Lockstep


class Walks:
    """Those of one agent, by the ticket's name."""

    def __init__(self, site: Site, home: Belonging, finish: Finish):
        self._site, self._home, self._finish = site, home, finish
        self._walks: dict[str, Walking] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._walks

    def __bool__(self) -> bool:
        return bool(self._walks)

    def add(self, ticket: Ticket, progress: ProgressWriter, lockstep: Lockstep) -> None:
        self._walks[layout.ticket_name(ticket)] = Walking(ticket, progress, lockstep)

    def go_on(self) -> bool:
        """True where something was done. Raises StoreError: the store is away; call again."""
        worked = False
        for name, walking in list(self._walks.items()):
            ticket, lockstep = walking.ticket, walking.lockstep
            try:
                worked |= refusing(lockstep.turn)
                walking.progress.beat(Beat("training", lockstep.step, ticket.steps or 1))
                done = finished(lockstep, self._site) if lockstep.over else None
            except UploadClosedError as exc:  # of this ticket alone; another attempt brings other addresses
                log.warning("ticket %s: its addresses are not valid any more: %s", name, exc)
                done = Done(refusal=Code.EXPIRED)
            except RefusedError as exc:
                log.warning("ticket %s: refused, %s: %s", name, exc.code, exc)
                note_refused(self._home.audit, ticket, exc.code)
                done = Done(refusal=exc.code)
            if done is not None:
                self._end(name, done)
        return worked

    def end_older(self, ticket: Ticket) -> None:
        """An attempt at the same round that is under way ends: the hub asks anew."""
        for name, walking in list(self._walks.items()):
            same = (walking.ticket.run, walking.ticket.round) == (ticket.run, ticket.round)
            if same and ticket.operation == Operation.TRAIN:
                self._end(name, Done(refusal=Code.EXPIRED))

    def end_all(self) -> None:
        """End what is under way without an answer: it may be gone on with."""
        with ExitStack() as ends:
            for walking in self._walks.values():
                ends.callback(walking.lockstep.close)
            self._walks.clear()

    def _end(self, name: str, done: Done) -> None:
        walking = self._walks.pop(name)
        try:
            self._finish(walking.ticket, walking.progress, done)
        finally:
            walking.lockstep.close(answered=done.update is not None)
