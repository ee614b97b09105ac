"""The gate that every answer passes before a byte of it leaves, and the signed record of what passed.

Twice: what training made is examined against the parameters it was asked for
(`examine`), before a receipt promises it; and whatever lies in the outbox is
cleared again before it is sent (`Egress.clear`): still canonical tensors, and
paid for in the ledger by this very ticket, or by the earlier attempt whose
very bytes it repeats. Both run in the agent, not in the child that trained.
What an update says within its norm, no gate can see: that is the noise's work.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from pydantic import Field

from infra.errors import FileError, SealError
from infra.sealing import is_encrypted
from infra.signing import SigningKey, unseal
from sites.auditevents import BytesOut
from sites.auditread import lines
from sites.chain import BrokenChainError
from sites.identity import FORMER, own_public_key
from sites.journal import begun_for
from sites.ledger import Ledger, Row
from sites.outbox import Outbox
from sites.payload import WORD_BYTES, form_of, norm, read_tensors, word_norm
from sites.policyterms import Policy
from tasks import layout
from tasks.contracts import Code, Message, Name, Operation, Receipt, Sha256, Update
from tasks.errors import ContractError, RefusedError
from tasks.privacy.counted import split
from tasks.privacy.distributed import Mechanism
from tasks.privacy.events import GaussianEvent
from tasks.study import Study

FILE = "egress.jsonl"  # in the state folder, beside the audit log
STEPS = ("/step.masked", "/step.json")
ANSWERS = ("/receipt.json", "/update.safetensors", "/update.masked", *STEPS)  # objects that have a record
ADAM_STEP = 3.17  # learning rates that a step of Adam moves a number at most: Kingma & Ba 2015, section 2.1

log = logging.getLogger(__name__)


class EgressRecord(Message):
    """One object that left: signed by the site, one line of egress.jsonl."""

    kind: str = Field(default="egress", pattern="^egress$")
    site: Name
    key: str = Field(max_length=500)
    sha256: Sha256
    bytes: int = Field(ge=0)
    ticket_sha256: Sha256
    ledger_entry: int | None = Field(default=None, ge=1)  # id of the reservation that paid for it
    at: float  # seconds since 1970, the site's clock
    late: bool = Field(default=False, exclude_if=lambda late: not late)  # a fall came between (mending.py)


def examine(
    payload: bytes,
    given: bytes,
    study: Study,
    event: GaussianEvent | None,
    batch: float,
    policy: Policy,
    bound: float | None = None,
    weight: float = 1.0,
) -> float:
    """Let an update pass that is an update to `given`, and nothing else.

    Args:
        payload: what training wrote.
        given: the hub's parameters.
        study: how it trains.
        event: noise and steps that were reserved for it; None without protection.
        batch: expected units of a step.
        policy: of the site.
        bound: norm that the study lets an update of this round have; None: any.
        weight: what this site counts: the update was made so many times as long.

    Returns:
        Its norm.

    Raises:
        RefusedError: not_finite, or training_failed: other names or shapes, more bytes than its numbers, or a
            norm that this study's training cannot have, or that the site's policy does not let out.
    """
    try:
        found, wanted = read_tensors(payload), form_of(given)
    except ContractError as exc:
        raise RefusedError(Code.TRAINING_FAILED, f"the update stays here: {exc}") from exc
    if found.form != wanted:
        raise RefusedError(
            Code.TRAINING_FAILED, "the update stays here: other names or shapes than the parameters it is for"
        )
    size = norm(payload, found)
    if not math.isfinite(size):
        raise RefusedError(Code.NOT_FINITE, "the update stays here: it has numbers that are not finite")
    possible = norm_bound(study, event, batch, found.numbers)
    bounds = [one for one in (bound, possible) if one is not None]
    limit = min([weight * one for one in bounds], default=math.inf)
    if policy.max_update_norm is not None:
        limit = min(limit, policy.max_update_norm)
    if size > limit:
        raise RefusedError(
            Code.TRAINING_FAILED,
            f"the update stays here: its norm is {size:.4g}, at most {limit:.4g} is possible or allowed",
        )
    return size


def examine_words(words: bytes, run: Mechanism, units: int) -> None:
    """Let noised words pass that a sum of clipped gradients and a share of noise can be.

    Args:
        words: 64-bit integers, as training wrote them.
        run: the study's mechanism.
        units: about how many units trained, as in their public band.

    Raises:
        RefusedError: training_failed: another number of words than the model's, or a norm that cannot be.
    """
    if len(words) != WORD_BYTES * run.dimension:
        raise RefusedError(
            Code.TRAINING_FAILED, "the update stays here: other words than the parameters it is for"
        )
    noise = run.share * (math.sqrt(run.dimension) + 10)
    limit = 1.01 * ((1.5 * units + 50) * run.sensitivity + noise)  # 1.5 as in norm_bound, for the band
    size = word_norm(words)
    if not size <= limit:
        raise RefusedError(
            Code.TRAINING_FAILED,
            f"the update stays here: a norm of {size:.4g} words, at most {limit:.4g} is possible",
        )


def norm_bound(study: Study, event: GaussianEvent | None, batch: float, numbers: int) -> float | None:
    """The largest norm that a round of this study can give an update; None where nothing bounds it.

    With SGD: learning_rate x steps x clip_norm x (units drawn + noise_multiplier x (sqrt(numbers) + 10)) /
    batch. Noise of d numbers is longer than sqrt(d) + 10 standard deviations less than once in 10^21 (Laurent &
    Massart 2000, lemma 1). Where b units are drawn in expectation, fewer than 1.5 b + 12 sqrt(b) + 50 are, as
    seldom (Bernstein's inequality; 1.5 for the rounding of b in tasks/bands.py). A clip norm that adapts counts as the
    largest that the study allows, with the noise that a step has then. With Adam a number moves at most
    ADAM_STEP learning rates in a step. One part in a hundred is for the rounding of float32.
    """
    clip_norm = study.privacy.most_clip
    if event is None or clip_norm is None:
        return None
    travel = 1.01 * study.local.learning_rate * event.steps
    if study.local.optimizer == "adam":
        return travel * ADAM_STEP * math.sqrt(numbers)
    drawn = 1.5 + 12 / math.sqrt(batch) + 50 / batch
    multiplier = (
        split(event.noise_multiplier).gradients if study.privacy.adaptive_clip else event.noise_multiplier
    )
    noise = multiplier * (math.sqrt(numbers) + 10) / batch
    return travel * clip_norm * (drawn + noise)


class Egress:
    """The gate of one state folder, for what waits in its outbox."""

    def __init__(self, state: Path, key: SigningKey, now: Callable[[], float]):
        self._state, self._key, self._now = state, key, now
        self._outbox = Outbox(state / "outbox")

    def entry_of(self, key: str) -> int | None:
        """The ledger's entry that has paid for an object of the outbox; None where it spends nothing.

        Raises:
            ContractError: not paid for, or of no answer that this site knows.
            FileError: ledger, journal or answer cannot be read.
        """
        name = layout.name_of_answer(key)
        if key.endswith(STEPS):
            run, _, rest = name.partition("/")
            return self.clear_steps(run, int(rest[:5]))
        answer = self._outbox.find(name)
        if answer is None:
            raise ContractError(f"the outbox has no answer {name}")
        return self.clear(answer.receipt, self._outbox.payload(answer))

    def kept(self) -> dict[tuple[str, str], int]:
        """Bytes of each object with a record that this site has signed, by key and digest; any other line is none."""
        found, unsigned = dict[tuple[str, str], int](), 0
        keys = [self._key.public_hex, *_former_keys(self._state)]
        for line in _lines(self._state):
            if not line.endswith(b"}"):
                continue
            try:
                record = _opened(line, self._key.name, keys)
            except SealError:
                unsigned += 1
                continue
            found[record.key, record.sha256] = record.bytes
        if unsigned:
            log.warning(
                "%d lines of %s are not what this site has signed; see `audit egress`", unsigned, FILE
            )
        return found

    def clear_steps(self, run: str, round_: int) -> int:
        """The ledger's entry that pays for the steps of a round in lockstep.

        Raises:
            ContractError: they are not paid for; none must leave.
            FileError: ledger or journal cannot be read.
        """
        begun = begun_for(self._outbox.folder, run, round_)
        with closing(Ledger(self._state, site=self._key.name, read_only=True)) as ledger:
            for row in ledger.rows():
                entry, at = row.entry, (run, round_, begun.paid if begun else 0)
                if (entry.run, entry.round, entry.attempt) == at and row.state == "charged":
                    return row.id
        raise ContractError(f"the steps of round {round_} of {run} are not in the ledger; none is sent")

    def clear(self, receipt: Receipt, payload: bytes | None) -> int | None:
        """The ledger's entry that pays for an answer; None for one that spends nothing.

        Raises:
            ContractError: no tensors, or not paid for. It must not leave.
            FileError: the ledger cannot be read.
        """
        if receipt.update is None or (payload is None and receipt.update.spent is None):
            return None
        if receipt.update.sum_sha256 is not None:
            self._check_masked(receipt, receipt.update)
        elif payload is not None and not is_encrypted(
            payload
        ):  # else the receipt's digest holds it to what was examined
            read_tensors(payload)
        if receipt.update.spent is None:
            return None
        with closing(Ledger(self._state, site=self._key.name, read_only=True)) as ledger:
            rows = [r for r in ledger.rows() if (r.entry.run, r.entry.round) == (receipt.run, receipt.round)]
        paid = [row.id for row in rows if row.state == "charged" and self._pays(row, receipt)]
        if not paid:
            raise ContractError(
                f"the update of round {receipt.round} of {receipt.run} is not in the ledger; it is not sent"
            )
        return paid[0]

    def note(
        self,
        ticket_sha256: str,
        key: str,
        digest: str,
        size: int,
        entry: int | None,
        durable: bool = True,
        late: bool = False,
    ) -> None:
        """Keep the signed record of an object that is about to leave; on disk when this returns, if `durable`.

        Steps in lockstep are not: their vectors are on disk in the journal of their round, and `secure` makes the
        records of many of them durable at once.

        Raises:
            FileError: it cannot be written; the object must not leave.
        """
        record = EgressRecord(
            site=self._key.name,
            key=key,
            sha256=digest,
            bytes=size,
            ticket_sha256=ticket_sha256,
            ledger_entry=entry,
            at=self._now(),
            late=late,
        )
        try:
            _append(self._state / FILE, self._key.seal(record), durable)
        except OSError as exc:
            raise FileError(
                f"{self._state / FILE} cannot be written ({exc.strerror}); nothing leaves without its record. "
                f"Make room on the disk, or give the agent's user write access."
            ) from exc

    def secure(self) -> None:
        """Make every record so far durable. Raises FileError."""
        try:
            with (self._state / FILE).open("ab") as file:
                os.fsync(file.fileno())
        except OSError as exc:
            raise FileError(f"{self._state / FILE} cannot be written ({exc.strerror})") from exc

    def _check_masked(self, receipt: Receipt, update: Update) -> None:
        """Raises ContractError: these words are not the ones that this site has bound itself to in their sum."""
        kept = self._outbox.find(layout.ticket_name(receipt))
        bound = kept.bound if kept else None
        if bound is None or (bound.sum.sha256, bound.sum.vector_bytes, bound.pledge.masked_sha256) != (
            update.sum_sha256,
            update.payload_bytes,
            update.payload_sha256,
        ):
            raise ContractError(
                f"a masked vector of round {receipt.round} of {receipt.run} that this site has not made; it is not sent"
            )

    def _pays(self, row: Row, receipt: Receipt) -> bool:
        """True where the entry is this attempt's, or of the attempt that made these very bytes."""
        entry = row.entry
        if entry.attempt == receipt.attempt:
            return True
        begun = begun_for(self._outbox.folder, entry.run, entry.round)
        if begun is not None and begun.paid == entry.attempt:  # the attempt that began the steps has paid
            return True
        made = self._outbox.find(f"{entry.run}/{entry.round:05d}-{entry.attempt:02d}-{Operation.TRAIN}")
        if made is None or made.receipt.update is None or receipt.update is None:
            return False
        return made.receipt.update.payload_sha256 == receipt.update.payload_sha256


def egress_records(state: Path, site: str, public_key: str) -> Iterator[EgressRecord]:
    """What left this site, oldest first; a line that a full disk tore is left out.

    Raises:
        SealError: a line was not signed by this site's key.
    """
    keys = [public_key, *_former_keys(state)]
    for number, line in enumerate(_lines(state), 1):
        if not line.endswith(b"}"):
            continue
        try:
            yield _opened(line, site, keys)
        except SealError as exc:
            raise SealError(
                f"line {number} of {state / FILE} is not what this site has signed: {exc}"
            ) from exc


def _lines(state: Path) -> list[bytes]:
    """As they stand there; one that a full disk tore does not end as a record does."""
    try:
        return (state / FILE).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []


def _former_keys(state: Path) -> list[str]:
    """Public keys that this site had before."""
    return (state / FORMER).read_text().split() if (state / FORMER).exists() else []


def _opened(line: bytes, site: str, keys: list[str]) -> EgressRecord:
    """A record under the site's key, or one that it had before. Raises SealError."""
    for key in keys[1:]:
        with suppress(SealError):
            return unseal(line, EgressRecord, site, key)
    return unseal(line, EgressRecord, site, keys[0])


def noted_egress(state: Path, site: str) -> list[EgressRecord]:
    """Every record, each compared with the audit log.

    Raises:
        FileError: there is no key to check with.
        SealError: a line was not signed by this site's key.
        BrokenChainError: an object has a record and no line in the audit log, or the reverse.
    """
    before = _logged(
        state
    )  # an agent that works writes a line, then the record: so the log is read around the records
    records = list(egress_records(state, site, own_public_key(site, state)))
    known = {(r.key, r.sha256) for r in records}
    missing, unknown = before - known, known - before
    unknown = unknown - _logged(state) if unknown else unknown
    for key, digest in sorted(unknown):
        raise BrokenChainError(f"{key} {digest[:16]} left by its record and is not in the audit log")
    for key, digest in sorted(missing):
        raise BrokenChainError(f"{key} {digest[:16]} left by the audit log and has no signed record")
    return records


def _logged(state: Path) -> set[tuple[str, str]]:
    """Key and digest of each answer that the audit log has seen leave."""
    events = (line.event for line in lines(state))
    return {(e.key, e.sha256) for e in events if isinstance(e, BytesOut) and e.key.endswith(ANSWERS)}


def _append(path: Path, line: bytes, durable: bool) -> None:
    """Add one line, durably if so asked. What a power cut left of the one before is ended first."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + line + b"\n"
        if os.write(fd, data) != len(data):
            os.ftruncate(fd, size)
            raise OSError(28, "no space left for a line")
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
