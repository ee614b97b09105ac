"""The site's command line, `fedrounds-site`: one module per command, loaded by name.

Nothing heavy is imported before the command is known, so `--help` is quick.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import NamedTuple

from infra.errors import InfraError
from tasks.errors import FederationError


class Command(NamedTuple):
    module: str
    help: str


COMMANDS: dict[str, Command] = {
    "enrol": Command("sites.commands.enrol", "join a hub with the kit that it sent: keys are made here"),
    "leave": Command("sites.commands.leave", "end the membership: keys destroyed, ledger and audit log kept"),
    "start": Command("sites.commands.start", "answer the hub's tickets, under this site's own rules"),
    "doctor": Command("sites.commands.doctor", "is everything ready? one row per check, each with its cure"),
    "review": Command(
        "sites.commands.review", "what would run: terms, code, and what is new since the last approval"
    ),
    "approve": Command("sites.commands.approve", "let a study run here, at exactly this hash"),
    "reject": Command("sites.commands.reject", "let nothing of a study run here"),
    "approvals": Command("sites.commands.approvals", "what is approved, by whom, at which hash; what waits"),
    "explain": Command(
        "sites.commands.explain", "what can leave this building, what can come in, which code can run"
    ),
    "budget": Command("sites.commands.budget", "privacy spent and left, by data set and study"),
    "ledger": Command("sites.commands.ledger", "verify or export the ledger and every epsilon in it"),
    "audit": Command("sites.commands.audit", "show, verify, export or report what was asked, done and sent"),
    "policy": Command("sites.commands.policy", "would this site do it? allow or deny, with the rule's line"),
    "pause": Command("sites.commands.pause", "kill switch: end what runs, let nothing leave"),
    "stop": Command("sites.commands.stop", "kill switch: as pause, and end the agent"),
    "resume": Command("sites.commands.resume", "take the kill switch back"),
    "held": Command("sites.commands.held", "list answers that wait for a person"),
    "release": Command("sites.commands.release", "let waiting answers leave"),
    "install-service": Command("sites.commands.install_service", "run the agent as a locked-down service"),
    "uninstall-service": Command(
        "sites.commands.uninstall_service", "remove that service; keep keys and ledger"
    ),
    "upgrade": Command(
        "sites.commands.upgrade", "install a signed bundle beside the old version, switch to it"
    ),
    "rollback": Command("sites.commands.rollback", "switch back to the version before"),
}

EPILOG = """examples:
  fedrounds-site enrol kit.json --config site.yaml
  fedrounds-site doctor --config site.yaml      before the first start, and whenever something is odd
  fedrounds-site start --config site.yaml
  fedrounds-site review STUDY --config site.yaml       then: approve, or reject
  fedrounds-site budget --config site.yaml
  fedrounds-site policy test study.yaml --config site.yaml
  fedrounds-site pause --config site.yaml --reason "why"
  fedrounds-site ledger verify --config site.yaml
  fedrounds-site audit show --config site.yaml
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or that of the error trees (tasks/errors.py, infra/errors.py)."""
    words = sys.argv[1:] if argv is None else argv
    name = words[0] if words and words[0] in COMMANDS else None
    parser = _parser(name)
    args = parser.parse_args(words)
    if name is None:
        parser.print_help()
        return 2
    try:
        code: int = importlib.import_module(COMMANDS[name].module).run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (FederationError, InfraError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    return code


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    """All commands by name; the arguments only of the chosen one, whose module alone is imported."""
    parser = argparse.ArgumentParser(
        prog="fedrounds-site",
        description="One institution's side of fedrounds: it opens no port, and decides for itself.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fedrounds {_version()}")
    top = parser.add_subparsers(metavar="COMMAND")
    for name, command in COMMANDS.items():
        if name != chosen:
            top.add_parser(name, help=command.help)
            continue
        module = importlib.import_module(command.module)
        summary, _, examples = (module.__doc__ or "").partition("\n\n")
        own = top.add_parser(
            name,
            help=command.help,
            description=summary,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(own)
    return parser


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fedrounds")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
