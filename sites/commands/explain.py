"""What can leave this building, with its size and its readers; what can come in; and which code can run here.

For an officer of data protection or information security. With --study the
bound of an update is that study's, and its code is listed too.

examples:
  fedrounds-site explain --config site.yaml
  fedrounds-site explain --config site.yaml --study heart
  fedrounds-site explain --config site.yaml --json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sites.settings import Site


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="site.yaml")
    parser.add_argument("--study", metavar="STUDY", help="a name that the hub has proposed, or a study file")
    parser.add_argument("--json", action="store_true", help="print JSON, with the sha256 of each module")


def run(args: argparse.Namespace) -> int:
    from sites.settings import load_site

    facts = explain(load_site(args.config), args.study)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts)
    return 0


def explain(site: Site, study: str | None) -> dict[str, Any]:
    """What `--json` prints."""
    from sites.explained import comes_in, leaves, own_modules
    from sites.proposals import find
    from sites.terms import modules

    version = find(study, site) if study else None
    code = [*own_modules(), *(modules(version) if version else ())]
    return {
        "site": site.settings.site,
        "store": site.settings.store,
        "study": version.study.name if version else None,
        "leaves": [t._asdict() for t in leaves(site.settings, version.parameters_bytes if version else None)],
        "comes_in": [thing._asdict() for thing in comes_in(site.settings)],
        "listens_on": [],
        "modules": [
            {"module": name, "sha256": sha256, "bytes": size} for name, sha256, size in sorted(set(code))
        ],
    }


def _print(facts: dict[str, Any]) -> None:
    print(f"Site {facts['site']} opens no port. It talks to one place: {facts['store']}")
    for title, key in (("What can leave", "leaves"), ("What can come in", "comes_in")):
        print(f"\n{title}:")
        for thing in facts[key]:
            print(f"  {thing['what']}\n    {thing['key']}")
            print(f"    at most {thing['most_bytes']:,} bytes, read by {thing['read_by']}")
    print(
        "\nEach object that leaves has a line in the audit log, but those that are overwritten all the time."
    )
    about = f", study {facts['study']} included" if facts["study"] else "; --study adds a study's own code"
    print(f"\nModules of fedrounds that can run here ({len(facts['modules'])}{about}; hashes with --json):")
    for module in facts["modules"]:
        print(f"  {module['bytes']:>7}  {module['module']}")
