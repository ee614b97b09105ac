"""Votes of a site's people on studies, and what they come to. Pure; the file of votes is approvals.py's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from sites.policyterms import Approval, Person
from tasks.codes import Operation
from tasks.contracts import Keys, Message, Name, Sha256, Ticket
from tasks.proposal import approval_sha256


class Vote(Message):
    """One person's word on one version of a study."""

    verdict: Literal["approved", "rejected"]
    study: Name
    study_sha256: Sha256
    recipe_sha256: Sha256  # fedrounds' version is in it
    operations: tuple[Operation, ...]
    version: str = Field(max_length=40)  # of fedrounds at this site
    parameters_bytes: int | None = None  # no model of this study is bigger; None: the hub had not said
    members: dict[Name, Keys] = Field(default_factory=dict)  # whose keys count in secure sums
    person: Person
    account: str = Field(max_length=64)  # the operating system's name of who ran the command
    reason: str = Field(default="", max_length=500)

    @property
    def approval_sha256(self) -> str:
        return approval_sha256(
            self.study, self.study_sha256, self.recipe_sha256, self.operations, self.members
        )


class Standing(NamedTuple):
    """What the votes come to, by study."""

    in_force: dict[str, Vote]  # the version that may run
    voices: dict[str, dict[str, list[str]]]  # of each version (approval_sha256): who has approved it
    rejected: dict[str, Vote]  # the last rejection, where nothing was approved since


def count(votes: Iterable[Vote], rule: Approval) -> Standing:
    """Read the votes in their order.

    A version replaces the one before as soon as enough different people have approved it. A rejection, by
    whomever, ends everything of its study: votes before it do not count any more.
    """
    found = Standing({}, {}, {})
    for vote in votes:
        if vote.verdict == "rejected":
            found.voices.pop(vote.study, None)
            found.in_force.pop(vote.study, None)
            found.rejected[vote.study] = vote
            continue
        if rule.people and vote.person not in rule.people:
            continue
        voices = found.voices.setdefault(vote.study, {}).setdefault(vote.approval_sha256, [])
        if vote.person not in voices:
            voices.append(vote.person)
        if len(voices) >= rule.required:
            found.in_force[vote.study] = vote
            found.voices[vote.study] = {vote.approval_sha256: voices}
            found.rejected.pop(vote.study, None)
    return found


def borne_out(votes: Iterable[Vote], study: str, noted: Sequence[tuple[str, str]]) -> bool:
    """True where the votes on a study since its last rejection are those that the audit log notes.

    A vote is noted before it counts. So an older file of votes, put back with its head, lacks the last decision
    of the log, or has voices that a rejection there has ended. A vote that a crash took away looks the same: say it
    again.

    Args:
        votes: all, oldest first.
        study: whose.
        noted: who approved what (approval_sha256) since the log's last rejection, oldest first.
    """
    voices = list[tuple[str, str]]()
    for vote in votes:
        if vote.study == study:
            voices = [] if vote.verdict == "rejected" else [*voices, (vote.person, vote.approval_sha256)]
    return set(voices) <= set(noted) and voices[-1:] == list(noted[-1:])


def rejected_since(votes: Sequence[Vote], rule: Approval, ticket: Ticket) -> bool:
    """True where people took back what they had said of a ticket's study, and have not said it again.

    An approval of another version, or an upgrade, takes nothing back: what was made before may still leave.
    """
    if ticket.study in count(votes, rule).rejected:
        return True
    for vote in reversed(votes):
        if vote.study != ticket.study:
            continue
        if vote.verdict == "rejected":
            return True
        if (vote.study_sha256, vote.recipe_sha256) == (ticket.study_sha256, ticket.recipe_sha256):
            return False
    return False


def missing_for(ticket: Ticket, standing: Standing, rule: Approval) -> str:
    """What people still have to do before a ticket may be worked on; empty where nothing is missing."""
    return missing_approval(
        standing, rule, ticket.study, ticket.study_sha256, ticket.recipe_sha256, ticket.operation
    )


def missing_approval(
    standing: Standing,
    rule: Approval,
    study: str,
    study_sha256: str,
    recipe_sha256: str,
    operation: Operation,
) -> str:
    """What people still have to do before a study may run at this hash; empty where nothing is missing."""
    cure = f"look at it with `fedrounds-site review {study}`"
    vote = standing.in_force.get(study)
    if vote is None:
        wanted = approval_sha256(study, study_sha256, recipe_sha256)
        versions = standing.voices.get(study, {})
        voices = versions.get(wanted) or (next(iter(versions.values())) if len(versions) == 1 else [])
        said = (
            f"approved by {', '.join(voices)} only, {rule.required} must" if voices else "not approved here"
        )
        return f"study {study!r} (terms {study_sha256[:12]}) is {said}; {cure}"
    changed = [
        part
        for part, same in {
            "its terms": vote.study_sha256 == study_sha256,
            "its code or the version of fedrounds": vote.recipe_sha256 == recipe_sha256,
            f"operation {operation}": operation.work in vote.operations,
        }.items()
        if not same
    ]
    if not changed:
        return ""
    return f"study {study!r} was approved as {vote.approval_sha256[:12]}; new since: {', '.join(changed)}; {cure}"
