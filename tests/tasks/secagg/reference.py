"""The protocol's arithmetic once more, slow and obvious, from the standards alone: no numpy, no cryptography package.

X25519 from RFC 7748, HKDF from RFC 5869, AES-256 from FIPS 197 in counter mode (SP 800-38A).
"""

from __future__ import annotations

import hashlib
import hmac
import json

P = 2**255 - 19
DOMAIN = b"fedrounds secagg v1\0"


def digest_of(name, fields):
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(DOMAIN + name.encode() + b"\0" + text.encode()).hexdigest()


def hkdf(key, salt, info, length):
    prk = hmac.digest(salt, key, "sha256")
    out, block, counter = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([counter]), "sha256")
        out, counter = out + block, counter + 1
    return out[:length]


def derive(key, context, *parts, length=32):
    info = DOMAIN
    for part in parts:
        info += len(str(part)).to_bytes(2, "big") + str(part).encode()
    return hkdf(key, bytes.fromhex(context), info, length)


def polynomial(secret, terms_sha256, kind, number, threshold):
    raw = derive(secret, terms_sha256, kind, number, length=64 * threshold)
    return [int.from_bytes(raw[64 * i : 64 * i + 64], "little") % P for i in range(threshold)]


def share(coefficients, x):
    return sum(c * x**i for i, c in enumerate(coefficients)) % P


def x25519(private, point):
    """RFC 7748, section 5: the Montgomery ladder."""
    k = bytearray(private)
    k[0] &= 248
    k[31] = (k[31] & 127) | 64
    k, u = int.from_bytes(k, "little"), int.from_bytes(point, "little") % 2**255
    x2, z2, x3, z3, swap = 1, 0, u, 1, 0
    for t in reversed(range(255)):
        bit = (k >> t) & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb = d * a, c * b
        x3, z3 = pow(da + cb, 2, P), u * pow(da - cb, 2, P) % P
        aa, bb = a * a % P, b * b % P
        x2, z2 = aa * bb % P, (aa - bb) * (aa + 121665 * (aa - bb)) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


BASE = (9).to_bytes(32, "little")


def _times2(a):
    return ((a << 1) ^ (0x11B if a & 0x80 else 0)) & 0xFF


def _sbox():
    box, p, q = [0] * 256, 1, 1
    while True:  # p runs through the powers of 3, q through their inverses
        p ^= _times2(p)
        for shift in (1, 2, 4):
            q ^= (q << shift) & 0xFF
        q ^= 0x09 if q & 0x80 else 0
        turned = q
        for shift in (1, 2, 3, 4):
            turned ^= ((q << shift) | (q >> (8 - shift))) & 0xFF
        box[p] = turned ^ 0x63
        if p == 1:
            box[0] = 0x63
            return box


SBOX = _sbox()


def _expand(key):
    words, rcon = [list(key[i : i + 4]) for i in range(0, 32, 4)], 1
    for i in range(8, 60):
        word = list(words[-1])
        if i % 8 == 0:
            word = [SBOX[b] for b in word[1:] + word[:1]]
            word[0] ^= rcon
            rcon = _times2(rcon)
        elif i % 8 == 4:
            word = [SBOX[b] for b in word]
        words.append([a ^ b for a, b in zip(words[i - 8], word, strict=True)])
    return [[b for word in words[4 * r : 4 * r + 4] for b in word] for r in range(15)]


def aes256(key, block):
    """FIPS 197, section 5.1."""
    keys = _expand(key)
    state = [a ^ b for a, b in zip(block, keys[0], strict=True)]
    for r in range(1, 15):
        state = [SBOX[b] for b in state]
        state = [state[(i + 4 * (i % 4)) % 16] for i in range(16)]
        if r < 14:
            mixed = []
            for c in range(0, 16, 4):
                column = state[c : c + 4]
                every = column[0] ^ column[1] ^ column[2] ^ column[3]
                mixed += [column[i] ^ every ^ _times2(column[i] ^ column[(i + 1) % 4]) for i in range(4)]
            state = mixed
        state = [a ^ b for a, b in zip(state, keys[r], strict=True)]
    return bytes(state)


def mask(seed, length, bits):
    """Words of the keystream."""
    size = bits // 8
    blocks = -(-length * size // 16)
    raw = b"".join(aes256(seed, counter.to_bytes(16, "big")) for counter in range(blocks))
    return [int.from_bytes(raw[size * i : size * i + size], "little") for i in range(length)]


def combine(points):
    """The polynomial's value at 0 through (x, y) points."""
    total = 0
    for x, y in points:
        term = y
        for other, _ in points:
            if other != x:
                term = term * other * pow(other - x, P - 2, P) % P
        total += term
    return total % P
