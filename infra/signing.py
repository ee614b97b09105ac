"""Ed25519 keys and seals.

A sealed message is JSON: who signed, what kind it is, the exact body bytes and
the signature over all three. Verification does no I/O and decides nothing else:
it returns the message or raises; the caller decides what that means.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import SealError
from infra.keyfile import load_or_create

MAX_SEALED_BYTES = 512 * 1024  # a message is small; tensors travel beside it
DOMAIN = b"fedrounds seal v1\0"  # no signature of ours can be mistaken for one made elsewhere

M = TypeVar("M", bound=BaseModel)


class Seal(BaseModel):
    """The envelope. `body` is base64 of the message's JSON, signed byte for byte."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    signer: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    kind: str = Field(max_length=20)
    body: str = Field(max_length=MAX_SEALED_BYTES)
    signature: str = Field(max_length=100)


def _signed_bytes(signer: str, kind: str, body: bytes) -> bytes:
    parts = (signer.encode(), kind.encode(), body)
    return DOMAIN + b"".join(len(p).to_bytes(8, "big") + p for p in parts)


class SigningKey:
    """One party's Ed25519 key with the name it signs under."""

    def __init__(self, name: str, key: Ed25519PrivateKey):
        self.name = name
        self._key = key

    @classmethod
    def create(cls, name: str) -> SigningKey:
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, name: str, path: Path) -> SigningKey:
        """Read the key of `path`, or make it there once (file mode 0600, never sent anywhere)."""
        raw = load_or_create(path, lambda: Ed25519PrivateKey.generate().private_bytes_raw())
        return cls(name, Ed25519PrivateKey.from_private_bytes(raw))

    @property
    def public_hex(self) -> str:
        return (
            self._key.public_key()
            .public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            .hex()
        )

    def sign(self, data: bytes) -> bytes:
        """The signature of bytes that begin with a domain of their own, unlike DOMAIN: a protocol inside of ours."""
        return self._key.sign(data)

    def seal(self, message: BaseModel) -> bytes:
        """Sign a message; `message.kind` becomes part of what is signed."""
        body = message.model_dump_json().encode()
        kind = kind_of(message)
        signature = self._key.sign(_signed_bytes(self.name, kind, body))
        return (
            Seal(
                signer=self.name,
                kind=kind,
                body=b64encode(body).decode(),
                signature=b64encode(signature).decode(),
            )
            .model_dump_json()
            .encode()
        )


def verified(public_key: str, data: bytes, signature: bytes) -> bool:
    """Whether the holder of a public key (hex) signed these bytes with `sign`."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def kind_of(message: BaseModel) -> str:
    """What a seal says its message is."""
    return str(getattr(message, "kind", type(message).__name__.lower()))


def unseal(raw: bytes, model: type[M], signer: str, public_key: str) -> M:
    """Return the message in `raw` if `signer` signed it with `public_key` and it is a `model`.

    Raises:
        SealError: oversized, unreadable, signed by or as somebody else, altered, or of another form.
    """
    if len(raw) > MAX_SEALED_BYTES:
        raise SealError(f"a sealed message of {len(raw)} bytes is above the limit {MAX_SEALED_BYTES}")
    try:
        seal = Seal.model_validate_json(raw)
        body, signature = b64decode(seal.body, validate=True), b64decode(seal.signature, validate=True)
    except (ValidationError, ValueError) as exc:
        raise SealError("not a sealed message") from exc
    if seal.signer != signer:
        raise SealError(f"expected a message signed by {signer!r}, got one by {seal.signer!r}")
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(signature, _signed_bytes(signer, seal.kind, body))
    except (InvalidSignature, ValueError) as exc:
        raise SealError(f"the signature of {signer!r} does not fit its public key") from exc
    try:
        message = model.model_validate_json(body)
    except ValidationError as exc:
        raise SealError(f"{signer!r} signed something that is no {model.__name__}") from exc
    if seal.kind != kind_of(message):
        raise SealError(f"expected a {model.__name__}, the seal says {seal.kind!r}")
    return message


def read_kind(raw: bytes) -> str | None:
    """What a seal claims to hold, not trusted; None where it is no seal."""
    if len(raw) > MAX_SEALED_BYTES:
        return None
    try:
        return Seal.model_validate_json(raw).kind
    except ValidationError:
        return None


def peek(raw: bytes, model: type[M]) -> tuple[str, M]:
    """Read a message without trusting it: only to learn a key that is then pinned. Raises SealError."""
    try:
        seal = Seal.model_validate_json(raw)
        return seal.signer, model.model_validate_json(b64decode(seal.body, validate=True))
    except (ValidationError, ValueError) as exc:
        raise SealError("not a sealed message") from exc
