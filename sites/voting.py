"""A person's word on a study: noted in the audit log, kept with what it is about, and in force from then on.

The commands, the demo and simulations all approve by these functions.
"""

from __future__ import annotations

import os
import pwd
import time

from sites.approvals import Approvals, Entry
from sites.approved import keep
from sites.audit import Audit
from sites.auditevents import StudyApproved, StudyRejected
from sites.auditread import decided
from sites.identity import own_identity, own_version
from sites.policyterms import Approval
from sites.proposals import Version
from sites.settings import Site
from sites.syslog import Syslog
from sites.votes import Vote
from tasks.errors import FederationError


class NotAllowedError(FederationError):
    """Somebody may not do that here."""

    exit_code = 5


def approvals_of(site: Site) -> Approvals:
    """The votes of a site, under its own key, as far as its audit log bears them out."""
    book = Approvals(site.state, own_identity(site.settings.site, site.state).signing)
    book.compare_with(lambda _anew: decided(site.state))
    return book


def approve(site: Site, version: Version, person: str) -> Entry:
    """Approve a version of a study.

    Raises:
        NotAllowedError: the person is not among policy.approval.people.
        FileError: it cannot be written; nothing was approved.
    """
    rule = site.settings.policy.approval
    if rule.people and person not in rule.people:
        raise NotAllowedError(
            f"{person!r} may not approve here: policy.approval.people of site.yaml names "
            f"{', '.join(rule.people)}; say who you are with --as"
        )
    return _vote(site, _vote_of(version, "approved", person, ""), version)


def reject(site: Site, version: Version, person: str, reason: str) -> Entry:
    """Reject a study: nothing of it runs here until it is approved anew. Anybody may who may run the command.

    Raises:
        FileError: it cannot be written; nothing has changed.
    """
    return _vote(site, _vote_of(version, "rejected", person, reason), version)


def withdraw(site: Site, before: Vote, person: str, reason: str) -> Entry:
    """Reject a study that was approved, without looking at what the hub proposes now. Raises FileError."""
    changed = {"verdict": "rejected", "person": person, "account": account(), "reason": reason}
    return _vote(site, before.model_copy(update=changed), None)


def voices_missing(rule: Approval, voices: list[str]) -> int:
    """How many more people must approve."""
    return max(0, rule.required - len(voices))


def whoever() -> str:
    """The name of who runs this: of the person behind sudo, else of the operating system's account."""
    return os.environ.get("SUDO_USER") or account()


def account() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under a number without a name
        return f"uid-{os.getuid()}"


def _vote_of(version: Version, verdict: str, person: str, reason: str) -> Vote:
    return Vote.model_validate(
        {
            "verdict": verdict,
            "study": version.study.name,
            "study_sha256": version.study.sha256,
            "recipe_sha256": version.recipe_sha256,
            "operations": version.operations,
            "version": own_version(),
            "parameters_bytes": version.parameters_bytes,
            "members": version.members,
            "person": person,
            "account": account(),
            "reason": reason,
        }
    )


def _vote(site: Site, vote: Vote, version: Version | None) -> Entry:
    """Keep what it is about, note it in the audit log, then vote: nothing is in force that is not noted."""
    site.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = own_identity(site.settings.site, site.state).signing
    approvals = Approvals(site.state, key)
    approvals.entries()  # votes that were tampered with take no new one
    if version is not None:
        keep(site.state, vote, version.study, version.sources)
    address = site.settings.audit.syslog
    event = StudyApproved if vote.verdict == "approved" else StudyRejected
    audit = Audit(site.state, key, forward=Syslog(address) if address else None)
    audit.note(
        event(
            study=vote.study,
            study_sha256=vote.study_sha256,
            recipe_sha256=vote.recipe_sha256,
            approval_sha256=vote.approval_sha256,
            person=vote.person,
            account=vote.account,
        )
    )
    audit.secure()
    return approvals.add(vote, time.time())
