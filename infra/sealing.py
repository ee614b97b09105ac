"""Encryption to a recipient: who reads the store reads nothing.

X25519 with a key made for this one message, HKDF-SHA256, ChaCha20-Poly1305 in
chunks (the STREAM construction of Hoang et al. 2015, ePrint 2015/189), so that
a large update costs one pass. What both sides know of the message, its sender,
recipient and place, goes into the key and is authenticated with every chunk: a
message that is moved, renamed or sent on as somebody else's does not open. Who
wrote it, the signature says (signing.py); how the two go together, identity.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from infra.errors import SealError
from infra.keyfile import load_or_create

MAGIC = b"\xfffedenc\x01"  # read as the length that begins a safetensors file, it is above every limit
DOMAIN = b"fedrounds encryption v1"
CHUNK_BYTES = 1 << 20
KEY_BYTES = 32
TAG_BYTES = 16
HEADER_BYTES = len(MAGIC) + KEY_BYTES


class Context(NamedTuple):
    """What the two sides know of a message without reading it; `place` is its key in the store, or its purpose."""

    sender: str
    recipient: str
    place: str


class AgreementKey:
    """One party's X25519 key: what is encrypted to its public half, it alone opens."""

    def __init__(self, key: X25519PrivateKey):
        self._key = key
        self.public_hex = key.public_key().public_bytes_raw().hex()

    @classmethod
    def create(cls) -> AgreementKey:
        return cls(X25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, raw: bytes) -> AgreementKey:
        return cls(X25519PrivateKey.from_private_bytes(raw))

    @classmethod
    def load_or_create(cls, path: Path) -> AgreementKey:
        """Read the key of `path`, or make it there once (file mode 0600, never sent anywhere)."""
        return cls.from_bytes(load_or_create(path, lambda: X25519PrivateKey.generate().private_bytes_raw()))

    def decrypt(self, raw: bytes, context: Context) -> bytes:
        """What was encrypted to this key in this context.

        Raises:
            SealError: encrypted to another key, in another context, cut, altered, or not encrypted at all.
        """
        if not is_encrypted(raw) or len(raw) < HEADER_BYTES + TAG_BYTES:
            raise SealError("not an encrypted message")
        ephemeral = raw[len(MAGIC) : HEADER_BYTES]
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(ephemeral))
            cipher, about = _cipher(shared, ephemeral, bytes.fromhex(self.public_hex), context)
            parts = _cut(memoryview(raw)[HEADER_BYTES:], CHUNK_BYTES + TAG_BYTES)
            return b"".join(cipher.decrypt(nonce, part, about) for nonce, part in parts)
        except (InvalidTag, ValueError) as exc:
            raise SealError(
                f"what {context.sender!r} encrypted as {context.place} does not open: it is for another key or "
                f"place, or was altered"
            ) from exc


def encrypt(
    data: bytes, recipient_key: str, context: Context, ephemeral: AgreementKey | None = None
) -> bytes:
    """Encrypt `data` to the holder of a public key.

    Args:
        data: of any length; it grows by 40 bytes and 16 more for each begun MiB.
        recipient_key: X25519, hex.
        context: must be the same when it is opened.
        ephemeral: only for test vectors; a key that is used twice gives both messages away.

    Raises:
        SealError: the recipient's key is none.
    """
    once = ephemeral or AgreementKey.create()
    public = bytes.fromhex(once.public_hex)
    try:
        recipient = bytes.fromhex(recipient_key)
        shared = once._key.exchange(X25519PublicKey.from_public_bytes(recipient))
    except ValueError as exc:
        raise SealError(f"the key of {context.recipient!r} is no X25519 key") from exc
    cipher, about = _cipher(shared, public, recipient, context)
    parts = _cut(memoryview(data), CHUNK_BYTES)
    return b"".join([MAGIC, public, *(cipher.encrypt(nonce, part, about) for nonce, part in parts)])


def is_encrypted(raw: bytes) -> bool:
    return raw.startswith(MAGIC)


def encrypted_bytes(plain: int) -> int:
    """How long `plain` bytes are when they are encrypted."""
    chunks = max(1, -(-plain // CHUNK_BYTES))
    return HEADER_BYTES + plain + TAG_BYTES * chunks


def _cipher(
    shared: bytes, ephemeral: bytes, recipient: bytes, context: Context
) -> tuple[ChaCha20Poly1305, bytes]:
    """The cipher of one message, and what is authenticated with each of its chunks."""
    facts = (ephemeral, recipient, *(word.encode() for word in context))
    about = DOMAIN + b"".join(len(fact).to_bytes(8, "big") + fact for fact in facts)
    key = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=about).derive(shared)
    return ChaCha20Poly1305(key), about


def _cut(data: memoryview, size: int) -> Iterator[tuple[bytes, memoryview]]:
    """Chunks with their nonces: a counter, and a mark on the last, so that none is lost, moved or added."""
    chunks = max(1, -(-len(data) // size))
    for i in range(chunks):
        nonce = i.to_bytes(11, "big") + bytes([i == chunks - 1])
        yield nonce, data[i * size : (i + 1) * size]
