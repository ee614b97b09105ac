"""A bundle is what its signature says, or nothing of it is used; by our code and by install.sh alike."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infra.errors import SealError
from infra.supply.build import assemble
from infra.supply.bundle import SIGNATURE, SUMS, order_of, verify, write_sums
from tests.infra.supply.wheels import a_wheel, unpack, write_public

KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def folder(tmp_path):
    wheels = [a_wheel(tmp_path, "fedrounds", "0.1.0"), a_wheel(tmp_path, "other")]
    return unpack(assemble(tmp_path, wheels, KEY), tmp_path / "unpacked")


@pytest.fixture
def public(tmp_path):
    return write_public(KEY, tmp_path / "release.pem")


def _installer_agrees(folder: Path, public: Path) -> bool:
    """What the script of the bundle says before pip runs; it shares no line with `verify`."""
    command = ["sh", folder / "install.sh", "--key", public, "--verify"]
    return subprocess.run(command, capture_output=True).returncode == 0


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="install.sh needs openssl")


@needs_openssl
def test_an_untouched_bundle_is_accepted(folder, public):
    """By both, and it says what it is."""
    found = verify(folder, public)

    assert found.version == "0.1.0"
    assert {"requirements.txt", "sbom.cdx.json", "install.sh"} < found.files.keys()
    assert _installer_agrees(folder, public)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _other_wheel(folder: Path) -> Path:
    return next((folder / "wheels").glob("other*"))


def _sign_anew(folder: Path) -> None:
    write_sums(folder, "0.1.0", "python3.11", "linux-x86_64", Ed25519PrivateKey.generate())


def _strip_signature(folder: Path) -> None:
    (folder / SIGNATURE).unlink()


ATTACKS = {
    "a flipped byte in a wheel": lambda f: _flip(_other_wheel(f)),
    "a flipped byte in the installer": lambda f: _flip(f / "install.sh"),
    "a flipped byte in the list": lambda f: _flip(f / SUMS),
    "a flipped byte in the signature": lambda f: _flip(f / SIGNATURE),
    "a swapped wheel": lambda f: a_wheel(f / "wheels", "other", files={"evil.py": b"1"}),
    "an extra wheel": lambda f: a_wheel(f / "wheels", "third"),
    "an extra file beside": lambda f: (f / "pip.conf").write_text("[install]\nextra-index-url = x\n"),
    "an extra folder": lambda f: (f / "more").mkdir(),
    "a missing wheel": lambda f: _other_wheel(f).unlink(),
    "a link in a file's place": lambda f: (_other_wheel(f).rename(f.parent / "w"), _other_wheel_link(f)),
    "another signature": _sign_anew,
    "no signature": _strip_signature,
    "a longer list": lambda f: (f / SUMS).write_bytes((f / SUMS).read_bytes() + b"0" * 64 + b"  wheels/x\n"),
}  # fmt: skip


def _other_wheel_link(folder: Path) -> None:
    (folder / "wheels" / "other-1.0-py3-none-any.whl").symlink_to(folder.parent / "w")


@needs_openssl
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_bundle_that_was_touched_is_refused(folder, public, attack):
    """Whoever carries it may do what they like: nothing of it gets installed."""
    ATTACKS[attack](folder)

    with pytest.raises(SealError):
        verify(folder, public)
    assert not _installer_agrees(folder, public)


def test_a_key_of_another_kind_is_no_key(folder, tmp_path):
    """Not even an empty file passes for one."""
    (tmp_path / "empty.pem").write_bytes(b"")

    with pytest.raises(SealError, match="PEM"):
        verify(folder, tmp_path / "empty.pem")


def test_versions_are_ordered_as_numbers():
    """0.10 is newer than 0.9, and 1.0 is 1."""
    assert order_of("0.10") > order_of("0.9.9")
    assert order_of("1.0.0") == order_of("1")
