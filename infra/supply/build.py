"""Make the signed bundle of a site: `make bundle`, run by whoever releases.

Builds our wheel, cuts it to what a site needs, lets pip fetch everything that
it needs in the versions of constraints.txt, and signs the list of all files.
The private key stays where it is; its public half is written beside the bundle
to be handed out on another way than the bundle.

examples:
  make bundle
  python -m infra.supply.build --key ~/.config/fedrounds/release.key --out dist
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from infra.errors import FileError
from infra.supply import bundle
from infra.supply.sbom import bill, metadata
from infra.supply.sitewheel import site_wheel

SOURCE = Path(__file__).parents[2]
DEFAULT_KEY = Path("~/.config/fedrounds/release.key")
PUBLIC = "fedrounds-release.pem"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "--key", type=Path, default=DEFAULT_KEY, help=f"private release key (default {DEFAULT_KEY})"
    )
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder of the results (default dist)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    key = release_key(args.key.expanduser())
    with tempfile.TemporaryDirectory() as scratch:
        wheel = own_wheel(SOURCE, Path(scratch))
        print(f"{wheel.name}; fetching what it needs", flush=True)
        folder = Path(scratch) / "wheels"
        fetch(wheel, SOURCE / "constraints.txt", folder)
        made = assemble(args.out, sorted(folder.glob("*.whl")), key)
    public = args.out / PUBLIC
    public.write_bytes(public_pem(key))
    print(f"{made}, {made.stat().st_size / 1e6:.0f} MB")
    print(f"public key: {public}, sha256 {bundle.file_sha256(public)}")
    return 0


def release_key(path: Path) -> Ed25519PrivateKey:
    """The key of `path`, made there at the first call (mode 0600).

    Raises:
        FileError: the file holds something else.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(made)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as exc:
        raise FileError(f"{path} is no private key in PEM form without a passphrase") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise FileError(f"{path} is no Ed25519 key")
    return key


def public_pem(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def own_wheel(source: Path, out: Path) -> Path:
    """The site's wheel of the source tree."""
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(out / "full"),
        str(source),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return site_wheel(next((out / "full").glob("*.whl")), out)


def fetch(wheel: Path, constraints: Path, folder: Path) -> None:
    """Our wheel and the wheels of all that `[site]` needs, into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += [
        "--only-binary",
        ":all:",
        "--constraint",
        str(constraints),
        "--dest",
        str(folder),
        f"{wheel}[site]",
    ]
    subprocess.run(command, check=True)


def assemble(out: Path, wheels: list[Path], key: Ed25519PrivateKey) -> Path:
    """One file, `fedrounds-site-VERSION-PYTHON-PLATFORM.tar`, of these wheels, signed; returns its path."""
    facts = {wheel: metadata(wheel) for wheel in wheels}
    version = next(str(each["Version"]) for each in facts.values() if each["Name"] == "fedrounds")
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    name = f"fedrounds-site-{version}-{python}-{sysconfig.get_platform()}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / name
        (folder / bundle.WHEELS).mkdir(parents=True)
        for wheel in wheels:
            shutil.copyfile(wheel, folder / bundle.WHEELS / wheel.name)
        lines = [
            f"{each['Name']}=={each['Version']} --hash=sha256:{bundle.file_sha256(wheel)}\n"
            for wheel, each in facts.items()
        ]
        (folder / bundle.REQUIREMENTS).write_text("".join(lines))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        (folder / bundle.SBOM).write_text(json.dumps(bill(wheels, version, now), indent=2) + "\n")
        shutil.copyfile(Path(__file__).with_name(bundle.INSTALLER), folder / bundle.INSTALLER)
        (folder / bundle.INSTALLER).chmod(0o755)
        bundle.write_sums(folder, version, python, sysconfig.get_platform(), key)
        with tarfile.open(out / f"{name}.tar", "w") as tar:
            tar.add(folder, name)
    return out / f"{name}.tar"


if __name__ == "__main__":
    sys.exit(main())
