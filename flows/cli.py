"""The hub's command line, `fedrounds`: one module per command, loaded by name.

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
    "demo": Command(
        "simulation.demo", "four institutions train one model on this machine, with real servers"
    ),
    "up": Command("flows.commands.up", "start the hub's servers in the background"),
    "down": Command("flows.commands.down", "stop them"),
    "status": Command("flows.commands.status", "servers and sites at a glance"),
    "site policy": Command(
        "flows.commands.site_policy", "what the store's owner does for a site's credentials"
    ),
    "site add": Command("flows.commands.site_add", "make the kit that enrols a site"),
    "site confirm": Command(
        "flows.commands.site_confirm", "make a site a member, after its words were compared"
    ),
    "site list": Command("flows.commands.site_list", "all sites: state, keys, last contact"),
    "site revoke": Command("flows.commands.site_revoke", "end a site's membership at once"),
    "site rotate": Command("flows.commands.site_rotate", "ask a site for new keys, and take them"),
    "study check": Command("flows.commands.study_check", "is a study file right?"),
    "study publish": Command("flows.commands.study_publish", "propose a study, for its sites to approve"),
    "study run": Command("flows.commands.study_run", "run a study with its sites"),
    "study simulate": Command("simulation.command", "the same study on local files, in one process"),
    "study audit": Command("simulation.audit", "attack a study on local files: is it as private as it says?"),
    "study tune": Command(
        "simulation.tune", "choose settings on local files, and say what the choice has cost"
    ),
    "study deploy": Command("flows.commands.study_deploy", "put a study on its schedule"),
    "run list": Command("flows.commands.run_list", "all runs"),
    "run show": Command("flows.commands.run_show", "rounds, sites, metrics and epsilon of a run"),
    "run cancel": Command("flows.commands.run_cancel", "take a run back: its sites stop within seconds"),
    "run resume": Command("flows.commands.run_resume", "go on with a run that was interrupted"),
}
GROUPS = {
    "site": "enrol sites and end their membership",
    "study": "work with a study file",
    "run": "look at runs, resume or cancel them",
}

EPILOG = """examples:
  fedrounds demo                        see it work, on real data
  fedrounds up                          start Prefect, MLflow and the store in ./.fedrounds
  fedrounds study run study.yaml --watch
  fedrounds run show RUN --json
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or that of the error tree (tasks/errors.py, infra/errors.py)."""
    words = sys.argv[1:] if argv is None else argv
    name = _command_of(words)
    parser = _parser(name)
    args = parser.parse_args(words)
    if name is None:
        (args.group_parser if "group_parser" in args else parser).print_help()
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


def _command_of(words: list[str]) -> str | None:
    """`study run` of `study run FILE`; None where the words name no command."""
    two, one = " ".join(words[:2]), " ".join(words[:1])
    return two if two in COMMANDS else one if one in COMMANDS else None


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    """All commands by name; the arguments only of the chosen one, whose module alone is imported."""
    parser = argparse.ArgumentParser(
        prog="fedrounds",
        description="Scheduled, private federated-learning rounds between institutions.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fedrounds {_version()}")
    top = parser.add_subparsers(metavar="COMMAND")
    groups = {}
    for group, text in GROUPS.items():
        inner = top.add_parser(group, help=text, description=text)
        inner.set_defaults(group_parser=inner)
        groups[group] = inner.add_subparsers(metavar="COMMAND")
    for name, command in COMMANDS.items():
        group, _, leaf = name.rpartition(" ")
        place = groups[group] if group else top
        if name != chosen:
            place.add_parser(leaf, help=command.help)
            continue
        module = importlib.import_module(command.module)
        summary, _, examples = (module.__doc__ or "").partition("\n\n")
        own = place.add_parser(
            leaf,
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
