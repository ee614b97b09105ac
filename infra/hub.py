"""The hub's handle: a few public facts, and what they open.

The facts (folder, store, server addresses) are plain JSON, so that a Prefect
flow may carry them as a parameter; the store, the signing key and the clock
are opened on first use and never serialised. A simulation gives its own clock:
its `wait` lets the sites work instead of sleeping.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict

from infra.command import program
from infra.errors import FileError
from infra.identity import Identity, Peer
from infra.sealing import AgreementKey
from infra.sidebyside import side_by_side
from infra.signing import SigningKey
from infra.store import open_store
from infra.store.base import Store
from infra.store.patient import PatientStore

if TYPE_CHECKING:
    from infra.store.signer import Signer  # botocore: 12 MB, only where it is used

NAME = "hub"  # the name it signs under
FACTS = "hub.json"  # in the hub's folder

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
R = TypeVar("R")


class Hub(BaseModel):
    """One hub: where its folder, store and servers are.

    `mlflow_url` and `prefect_url` are None where there is no such server: then
    nothing is registered or shown, and rounds run all the same.
    """

    model_config = ConfigDict(extra="forbid", ignored_types=(cached_property,))

    directory: Path
    store_url: str
    prefect_url: str | None = None
    mlflow_url: str | None = None

    _now: Callable[[], float] = time.time
    _wait: Callable[[float], None] = time.sleep

    @classmethod
    def load(cls, directory: Path) -> Hub:
        """Read the facts that `fedrounds up` wrote.

        Raises:
            FileError: no hub was started in this folder.
        """
        path = directory / FACTS
        if not path.exists():
            raise FileError(f"no hub in {directory}: start one with `fedrounds up --dir {directory}`")
        return cls.model_validate_json(path.read_bytes())

    def save(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / FACTS).write_text(self.model_dump_json(indent=2) + "\n")

    def command(self, *words: str) -> str:
        """A command of this hub's operator, as a shell takes it: `fedrounds run resume RUN --dir DIR`."""
        return shlex.join([program(), *words, "--dir", str(self.directory)])

    def with_clock(self, now: Callable[[], float], wait: Callable[[float], None]) -> Hub:
        """The same hub on another clock: simulations and tests."""
        other = self.model_copy()
        other._now, other._wait = now, wait
        return other

    def patient(self) -> Hub:
        """The same hub, which waits for a store that is away: for a run, not for a command that only looks."""
        other = self.model_copy()
        other.__dict__["store"] = PatientStore(self.store, self.wait)
        return other

    @cached_property
    def store(self) -> Store:
        return open_store(self.store_url)

    @cached_property
    def signer(self) -> Signer:
        """Signs addresses for sites that may not write. Raises StoreError: the store is a folder."""
        from infra.store.signer import Signer

        return Signer.from_url(self.store_url)

    @cached_property
    def key(self) -> SigningKey:
        return SigningKey.load_or_create(NAME, self.directory / "keys" / "hub.key")

    @cached_property
    def identity(self) -> Identity:
        """The signing key, and the one that sites encrypt to; both made here once."""
        agreement = AgreementKey.load_or_create(self.directory / "keys" / "hub.x25519")
        return Identity(self.key, agreement)

    def write(self, key: str, message: BaseModel) -> None:
        """Seal the message and put it, over an older one if there is."""
        self.store.put(key, self.key.seal(message))

    def write_once(self, key: str, message: BaseModel) -> bool:
        """Seal the message and put it; False, and nothing changed, where the key exists."""
        return self.store.put_if_absent(key, self.key.seal(message))

    def write_once_to(self, peer: Peer, key: str, message: BaseModel) -> bool:
        """As write_once, readable by `peer` and this hub alone."""
        return self.store.put_if_absent(key, self.identity.seal(message, [peer, self.identity.public], key))

    def read(self, key: str, model: type[M]) -> M | None:
        """The message of `key`, which this hub must have sealed: the store is not trusted.

        Raises:
            SealError: another signature, or another form.
        """
        raw = self.store.get(key)
        return None if raw is None else self.identity.open(raw, model, self.identity.public, key)

    def latest(self, begin: int, key: Callable[[int], str]) -> int:
        """The highest number whose object is there, looked for from `begin` on; `begin` where the next one is absent.

        A list only says where to begin: some stores show lists that are behind, what they read is not.
        """
        number = begin
        while self.store.get(key(number + 1)) is not None:
            number += 1
        return number

    @property
    def remote(self) -> bool:
        """True where a look at the store is a way over the network."""
        return self.store_url.startswith("s3:")

    @property
    def pause(self) -> float:
        """Seconds between two looks at the store: short where a look costs microseconds."""
        return 0.5 if self.remote else 0.01

    def of_each(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`function`, which only asks the store, of each item: all at once where each is a way over the network."""
        return side_by_side(function, items) if self.remote else [function(item) for item in items]

    def now(self) -> float:
        """Seconds since 1970."""
        return self._now()

    def wait(self, seconds: float) -> None:
        """Let time pass, or in a simulation let the sites work."""
        self._wait(seconds)
