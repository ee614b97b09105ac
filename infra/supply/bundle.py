"""A signed bundle: what an offline installation consists of, and the proof that it is that.

A folder with wheels/, requirements.txt, sbom.cdx.json, install.sh and
SHA256SUMS, which lists every other file, and SHA256SUMS.sig, an Ed25519
signature over it. Both are in the forms that sha256sum and openssl read, so
that the first installation needs nothing of ours (install.sh). Verification
decides nothing else: whether a version is wanted is the caller's matter.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from infra.errors import SealError

SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"
REQUIREMENTS, SBOM, INSTALLER, WHEELS = "requirements.txt", "sbom.cdx.json", "install.sh", "wheels"
MOST_BYTES = 1_000_000  # of the list: some hundred lines
SIGNATURE_BYTES = 64
_HEAD = re.compile(
    r"# fedrounds-site (?P<version>[0-9]+(\.[0-9]+){0,3}) (?P<python>python3\.[0-9]+) (?P<platform>[\w.-]+)"
)
_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<name>(wheels/)?[A-Za-z0-9][A-Za-z0-9._+-]*)")


class Bundle(NamedTuple):
    """What the signature vouches for. `files`: sha256 by name; `sha256`: of the list itself."""

    version: str
    python: str
    platform: str
    files: dict[str, str]
    sha256: str

    @property
    def order(self) -> tuple[int, ...]:
        """Sorts as versions do."""
        return order_of(self.version)


def order_of(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def write_sums(folder: Path, version: str, python: str, platform: str, key: Ed25519PrivateKey) -> None:
    """List every file of the folder, and sign the list."""
    lines = [f"# fedrounds-site {version} {python} {platform}"]
    lines += [f"{file_sha256(folder / name)}  {name}" for name in sorted(_found(folder))]
    data = ("\n".join(lines) + "\n").encode()
    (folder / SUMS).write_bytes(data)
    (folder / SIGNATURE).write_bytes(key.sign(data))


def verify(folder: Path, key: Path) -> Bundle:
    """The bundle in `folder`, if the owner of `key` has signed exactly these files.

    Args:
        folder: an unpacked bundle.
        key: PEM file of the release key's public half.

    Raises:
        SealError: another signature, or a file that is changed, missing, additional or no plain file.
    """
    try:
        data, signature = _read(folder / SUMS, MOST_BYTES), _read(folder / SIGNATURE, SIGNATURE_BYTES)
        _public(key).verify(signature, data)
    except InvalidSignature as exc:
        raise SealError(f"{folder} is not signed by the key in {key}; use nothing of it") from exc
    bundle = _parse(data)
    found = _found(folder) - {SUMS, SIGNATURE}
    for name in sorted(found ^ bundle.files.keys()):
        what = "is not in the signed list" if name in found else "is missing"
        raise SealError(f"{name} of {folder} {what}; use nothing of it")
    for name, sha256 in bundle.files.items():
        if file_sha256(folder / name) != sha256:
            raise SealError(f"{name} of {folder} is not the file that was signed; use nothing of it")
    return bundle


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _public(path: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise SealError(f"{path} is no public key in PEM form; get the release key anew") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise SealError(f"{path} is no Ed25519 key; get the release key anew")
    return key


def _parse(data: bytes) -> Bundle:
    head, *lines = data.decode("ascii", errors="replace").removesuffix("\n").split("\n")
    known = _HEAD.fullmatch(head)
    entries = [_LINE.fullmatch(line) for line in lines]
    files = {entry["name"]: entry["sha256"] for entry in entries if entry}
    if known is None or len(files) != len(lines):
        raise SealError(f"{SUMS} is signed and has another form; it may be of a newer fedrounds")
    digest = hashlib.sha256(data).hexdigest()
    return Bundle(known["version"], known["python"], known["platform"], files, digest)


def _found(folder: Path) -> set[str]:
    """Names of all files. Raises SealError: there is a link, a pipe or a folder that no bundle has."""
    names = set()
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(where, name)
            mode, inside = path.lstat().st_mode, str(path.relative_to(folder))
            if stat.S_ISREG(mode):
                names.add(inside)
            elif not stat.S_ISDIR(mode) or inside != WHEELS:
                raise SealError(f"{inside} of {folder} has no place in a bundle; use nothing of it")
    return names


def _read(path: Path, most: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        raise SealError(f"{path} cannot be read ({exc.strerror}): this is no bundle") from exc
    with os.fdopen(fd, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise SealError(f"{path} is larger than any bundle's")
    return data
