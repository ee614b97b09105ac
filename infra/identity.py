"""One party's two keys, and what they do together: sign, and encrypt to others.

Encrypt, then sign. The signature covers the encrypted bytes with the names of
recipient and place, so that nothing of a stranger's is ever decrypted or parsed
and the store's reader can still prove who wrote. What an order of this kind is
attacked by is closed by the encryption's context (sealing.py): whoever strips
the signature and puts his own over the same bytes changes the sender's name,
and they no longer open; nor do they for another recipient or at another place.
Opening does no I/O and decides nothing: it returns the message or raises.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import SealError
from infra.sealing import AgreementKey, Context, encrypt
from infra.signing import MAX_SEALED_BYTES, SigningKey, kind_of, read_kind, unseal

M = TypeVar("M", bound=BaseModel)


class Peer(Protocol):
    """Whoever has public keys: a card (tasks/contracts.py), or this very party."""

    @property
    def name(self) -> str: ...
    @property
    def public_key(self) -> str: ...  # Ed25519, hex
    @property
    def agreement_key(
        self,
    ) -> str | None: ...  # X25519, hex; None: of a version before, which encrypts nothing


class Public(NamedTuple):
    """The public half of an identity."""

    name: str
    public_key: str
    agreement_key: str | None


class Encrypted(BaseModel):
    """A message that only its recipients read: the same content once for each, base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["encrypted"] = "encrypted"
    holds: str = Field(max_length=20)  # kind of the message inside
    place: str = Field(max_length=500)
    parts: dict[str, str] = Field(min_length=1, max_length=4)


class Identity:
    """A name with an Ed25519 and an X25519 key."""

    def __init__(self, signing: SigningKey, agreement: AgreementKey):
        self.signing, self.agreement = signing, agreement
        self.name = signing.name

    @classmethod
    def create(cls, name: str) -> Identity:
        return cls(SigningKey.create(name), AgreementKey.create())

    @classmethod
    def load_or_create(cls, name: str, signing: Path, agreement: Path) -> Identity:
        """The keys of two files, each made there once."""
        return cls(SigningKey.load_or_create(name, signing), AgreementKey.load_or_create(agreement))

    @property
    def public(self) -> Public:
        return Public(self.name, self.signing.public_hex, self.agreement.public_hex)

    def seal(self, message: BaseModel, to: Sequence[Peer], place: str) -> bytes:
        """Encrypt a message to all of `to`, and sign it; only signed where one of them has no key for it.

        Args:
            message: what is said.
            to: at least one; name this party's own public half to be able to read it again.
            place: the key in the store under which it will lie.
        """
        body, parts = message.model_dump_json().encode(), {}
        for peer in to:
            if peer.agreement_key is None:
                return self.signing.seal(message)
            data = encrypt(body, peer.agreement_key, Context(self.name, peer.name, place))
            parts[peer.name] = b64encode(data).decode()
        return self.signing.seal(Encrypted(holds=kind_of(message), place=place, parts=parts))

    def open(self, raw: bytes, model: type[M], by: Peer, place: str) -> M:
        """The message that `by` has sealed for this party and this place, or has signed for all to read.

        Raises:
            SealError: not by them, not for this party or place, altered, oversized, or of another form.
        """
        if read_kind(raw) != "encrypted":
            return unseal(raw, model, by.name, by.public_key)
        closed = unseal(raw, Encrypted, by.name, by.public_key)
        part = closed.parts.get(self.name)
        if part is None or closed.place != place:
            raise SealError(f"{by.name!r} wrote this for {', '.join(closed.parts)} and as {closed.place}")
        try:
            data = b64decode(part, validate=True)
            body = self.agreement.decrypt(data, Context(by.name, self.name, place))
            message = model.model_validate_json(body)
        except ValidationError as exc:
            raise SealError(f"{by.name!r} encrypted something that is no {model.__name__}") from exc
        except ValueError as exc:
            raise SealError(f"{by.name!r} signed an encrypted message that is none") from exc
        if len(body) > MAX_SEALED_BYTES or closed.holds != kind_of(message):
            raise SealError(f"expected a {model.__name__}, the seal says {closed.holds!r}")
        return message

    def encrypt(self, data: bytes, to: Peer, place: str) -> bytes:
        """Bytes for one party; they lie beside a signed message that names their digest.

        Raises:
            SealError: the party has no key for it.
        """
        if to.agreement_key is None:
            raise SealError(f"{to.name!r} has shown no key to encrypt to")
        return encrypt(data, to.agreement_key, Context(self.name, to.name, place))

    def decrypt(self, raw: bytes, by: Peer, place: str) -> bytes:
        """What `encrypt` made. Raises SealError: for another party or place, or altered."""
        return self.agreement.decrypt(raw, Context(by.name, self.name, place))


def place_of(raw: bytes, by: Peer) -> str:
    """Where a message says that it lies: for a copy that was taken from there. Raises SealError: not by them."""
    if read_kind(raw) != "encrypted":
        return ""
    return unseal(raw, Encrypted, by.name, by.public_key).place
