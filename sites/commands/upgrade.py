"""Install a signed bundle beside the version that runs, examine it, and switch to it.

BUNDLE is the tar file of a release, or its unpacked folder; no network is used.
Its signature is checked against the release key that install.sh has kept, then
every file; an older version is refused. With --config the new version's doctor
must find nothing wrong that is right now. Keys, policy, ledger and audit log
are not touched. Cut off at any instruction, a working version is left.

examples:
  sudo fedrounds-site upgrade fedrounds-site-0.2.0-python3.11-linux-x86_64.tar --config site.yaml
  sudo fedrounds-site upgrade BUNDLE --root /opt/fedrounds
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sites.settings import Site
    from sites.versions import Versions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="tar file or folder")
    add_common(parser)
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="release key (default: the one kept at install)"
    )


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="site.yaml: whose doctor is asked and service restarted"
    )
    parser.add_argument(
        "--root", type=Path, metavar="FOLDER", help="the installation (default: where this program is)"
    )


def run(args: argparse.Namespace) -> int:
    from sites.upgrade import forget

    site, versions = site_and_versions(args)
    with versions.alone():
        try:
            _upgrade(args, site, versions)
        finally:
            forget(versions)
    return 0


def _upgrade(args: argparse.Namespace, site: Site | None, versions: Versions) -> None:
    from sites.upgrade import check_newer, receive, steps
    from sites.versions import KEY

    folder, found = receive(versions, args.bundle, args.key or versions.root / KEY)
    print(f"verified: version {found.version}, {len(found.files)} files, all as signed", flush=True)
    check_newer(versions, found)
    if found.version == versions.current:
        print(f"version {found.version} runs already; nothing to do")
        return
    for step in steps(versions, folder, found, site, args.config):
        print(step.say, flush=True)
        step.act()
    end(site, f"version {found.version} is installed; back with: fedrounds-site rollback")


def site_and_versions(args: argparse.Namespace) -> tuple[Site | None, Versions]:
    """What --config and --root name. Raises FileError."""
    from sites.settings import load_site
    from sites.versions import Versions

    site = load_site(args.config) if args.config else None
    return site, Versions(args.root.absolute()) if args.root else Versions.of_this_program()


def end(site: Site | None, said: str) -> None:
    """Restart the service, or say what to do where there is none."""
    from sites.systemd import restart

    print(said)
    if site is not None and restart(site.settings.site):
        print("the service was restarted")
    else:
        print("an agent that runs now still runs the version before: stop it and start it again")
