"""The closed lists of the wire format: what can be asked, why a site may say no, and what else it may say."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal


class Operation(StrEnum):
    """What a ticket may ask of a site."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    # steps of a secure sum (secagg/): they read no row
    ANNOUNCE = "announce"  # show public keys for some rounds
    DEAL = "deal"  # share the secrets behind them among the other sites
    AGREE = "agree"  # sign the list of sites whose updates are added
    OPEN = "open"  # give the shares that open this one sum
    AGREE_SCORES = "agree_scores"  # the same two for the figures of the round
    OPEN_SCORES = "open_scores"

    @property
    def work(self) -> Operation:
        """What people allow and approve, of which this is a step: one of WORK."""
        if self in (Operation.AGREE_SCORES, Operation.OPEN_SCORES):
            return Operation.EVALUATE
        return self if self == Operation.EVALUATE else Operation.TRAIN


WORK = (Operation.TRAIN, Operation.EVALUATE)
"""What people allow and approve; the other operations are steps of these."""


class Code(StrEnum):
    """Why a site said no, or why the hub left an answer out. Closed: no other text leaves a site."""

    # said by a site
    BAD_TICKET = "bad_ticket"  # unreadable, unsigned, forged, for another site, or against the study's terms
    EXPIRED = "expired"  # the ticket's time is over
    UNKNOWN_STUDY = "unknown_study"  # the site's file names no source for this study
    UNKNOWN_RECIPE = "unknown_recipe"  # the recipe is not installed at the site, or is other code there
    BAD_SETTINGS = "bad_settings"  # the recipe refuses the study's settings
    UNREADABLE_DATA = "unreadable_data"  # the source cannot be opened or parsed
    MISSING_COLUMN = "missing_column"  # the source lacks a column that the recipe reads
    TOO_FEW_RECORDS = "too_few_records"  # below the site's limits.min_records
    BUDGET_EXHAUSTED = "budget_exhausted"  # the ledger would pass the site's limits.epsilon
    PRIVACY_REFUSED = "privacy_refused"  # the study's privacy mode is not allowed here
    NOT_FINITE = "not_finite"  # training gave NaN or infinity; nothing was sent
    TRAINING_FAILED = "training_failed"  # anything else; the reason is in the site's own log
    PAUSED_BY_SITE = "paused_by_site"  # the site's kill switch is thrown
    OUTSIDE_HOURS = "outside_hours"  # the site's policy answers at other hours
    CANCELLED = "cancelled"  # the hub has taken the run back
    POLICY_REFUSED = "policy_refused"  # another rule of the site's policy
    NOT_APPROVED = "not_approved"  # the site's people have not approved this study at this hash
    SUM_REFUSED = "sum_refused"  # a step of a secure sum that would be unsafe, or the site has no keys for it
    # found by the hub
    NO_SEAT = "no_seat"  # was away when keys for the secure sums of this round were made
    PAUSED_BY_HUB = "paused_by_hub"  # the operator paused the site's work pool
    COOLING_DOWN = "cooling_down"  # failed in several rounds in a row; asked again after a pause
    TOO_LATE = "too_late"  # enough others had delivered, and the study's grace was over
    NO_ANSWER = "no_answer"  # nothing verified arrived before the deadline
    NOT_ENROLLED = "not_enrolled"  # the hub knows no key of this site
    BAD_SIGNATURE = "bad_signature"  # the answer is not signed by the site's pinned key
    BAD_UPDATE = "bad_update"  # wrong digest, names, shapes or sizes
    UPDATE_NOT_FINITE = "update_not_finite"


Isolation = Literal[
    "no_credentials",  # the environment holds none
    "no_new_privileges",
    "no_network",  # no socket
    "no_processes",  # neither begins one nor looks into another
    "no_files",  # none but the source, the job's own folder and the installed code
]
"""What the kernel has taken from the job that made an answer."""

Concern = Literal[
    "disk_low",
    "memory_low",
    "shared_memory_low",  # /dev/shm, which training may need
    "clock_off",  # the ticket was issued in this site's future
    "source_writable",  # the agent could change the records
    "key_exposed",  # the site's key can be read by others
    "seeded_noise",  # site.yaml asks for noise that anybody can compute
    "doctor_failed",  # the last whole look of the site's doctor found a failure
    "doctor_skipped",  # the agent was started without one
]
"""What a site's doctor, in its short form, finds amiss before a round. Closed: no other text leaves a site."""

Band = Literal["<50", "50-199", "200-999", "1000-4999", "5000-19999", "20000+"]
"""How many usable records a site has, as coarsely as it may be known outside it."""

Reached = Literal["accepted", "training", "evaluating", "delivering"]
"""How far a site is with a ticket."""
