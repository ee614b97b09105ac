"""Every key of the protocol and how it is derived. All of them come from one secret of 32 bytes.

    run secret  --HKDF(terms)-->            sealing key
    run secret  --HKDF(terms, sum, kind)--> a polynomial; its constant is a secret of that sum alone:
                                            kind pair: an X25519 key, kind self: the self-mask's secret
    X25519 of two sites' pair keys  --HKDF(sum's terms)-->  the mask between these two
    self secret                     --HKDF(sum's terms)-->  the site's own mask
    X25519 of two sealing keys      --HKDF(directory)-->    one key from sender to recipient

Opening a secret of one sum says nothing about another sum: they have only the
run secret in common, and HKDF does not run backwards. Polynomials are derived
too, so that a setup that is repeated after a crash gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tasks.errors import SecureSumError
from tasks.secagg.messages import DOMAIN, Terms
from tasks.secagg.shamir import PRIME, to_bytes

Kind = Literal["pair", "self"]
_WIDE = 64  # bytes reduced to one coefficient: the bias is below 2^-256
_PROBE = X25519PrivateKey.from_private_bytes(b"fedrounds: any scalar will do it")
_NONCE = bytes(12)  # each sealing key seals one message


class MaskSeeds(NamedTuple):
    """Keys of the streams to add to a vector and to take from it."""

    plus: tuple[bytes, ...]
    minus: tuple[bytes, ...]


def derive(key: bytes, context: str, *parts: str | int, length: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869): `context` is a digest in hex, `parts` say what the result is for."""
    info = DOMAIN + b"".join(len(raw).to_bytes(2, "big") + raw for raw in (str(p).encode() for p in parts))
    return HKDF(SHA256(), length=length, salt=bytes.fromhex(context), info=info).derive(key)


def polynomial(run_secret: bytes, terms: Terms, kind: Kind, number: int) -> list[int]:
    """`threshold` coefficients, the secret of sum `number` first."""
    wide = derive(run_secret, terms.sha256, kind, number, length=_WIDE * terms.threshold)
    return [int.from_bytes(wide[i : i + _WIDE], "little") % PRIME for i in range(0, len(wide), _WIDE)]


def sealing_key(run_secret: bytes, terms: Terms) -> bytes:
    return derive(run_secret, terms.sha256, "sealing")


def public_key(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def commitment(secret: bytes, terms_sha256: str, number: int) -> bytes:
    """What a site publishes about a self-mask secret: hides it, and fits no other one."""
    return hashlib.sha256(
        DOMAIN + b"commitment" + bytes.fromhex(terms_sha256) + number.to_bytes(4, "big") + secret
    ).digest()


def agree(private: bytes, public: bytes) -> bytes:
    """X25519 (RFC 7748).

    Raises:
        SecureSumError: the public key is one of the few that make every agreement the same.
    """
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError as exc:
        raise SecureSumError("a site announced a key of small order; leave that site out") from exc


def is_sound(public: bytes) -> bool:
    """False for the few public keys with which every agreement is the same (RFC 7748, section 6.1)."""
    try:
        _PROBE.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def pair_seed(private: bytes, public: bytes, sum_sha256: str, sites: Sequence[str]) -> bytes:
    """The mask between two sites, from either one's private key."""
    return derive(agree(private, public), sum_sha256, "pair mask", *sorted(sites))


def self_seed(secret: int, sum_sha256: str, site: str) -> bytes:
    return derive(to_bytes(secret), sum_sha256, "self mask", site)


def seal(private: bytes, public: bytes, directory_sha256: str, route: tuple[str, str], body: bytes) -> bytes:
    """Encrypt `body` for the second site of `route`, from the first. Nobody else could have made it."""
    key = derive(agree(private, public), directory_sha256, "seal", *route)
    return ChaCha20Poly1305(key).encrypt(_NONCE, body, None)


def unseal(
    private: bytes, public: bytes, directory_sha256: str, route: tuple[str, str], body: bytes
) -> bytes:
    """Undo `seal`.

    Raises:
        SecureSumError: altered, or sealed by or for somebody else, or for another directory.
    """
    key = derive(agree(private, public), directory_sha256, "seal", *route)
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, body, None)
    except InvalidTag as exc:
        raise SecureSumError(f"the shares that {route[0]!r} dealt to {route[1]!r} do not open") from exc
