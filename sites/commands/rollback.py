"""Switch back to the version that ran before the last upgrade. Keys, policy, ledger and audit log stay as they are.

examples:
  sudo /opt/fedrounds/current/bin/fedrounds-site rollback --config /srv/fedrounds/site.yaml
"""

from __future__ import annotations

import argparse

from sites.commands.upgrade import add_common

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    from sites.commands.upgrade import end, site_and_versions

    site, versions = site_and_versions(args)
    with versions.alone():
        before, target = versions.current, versions.previous()
        versions.switch(target)
    end(site, f"version {target} runs again instead of {before}")
    return 0
