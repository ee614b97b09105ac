"""Run the agent as a locked-down service of systemd: started at boot, restarted when it falls.

Makes the user, gives it the state folder, writes the unit, enables and starts
it; needs root. The unit lets the agent write to its state folder and reach the
object store, and nothing else. Safe to repeat, as after a change of site.yaml's
paths. Credentials of the store go into /etc/fedrounds/SITE.env (NAME=value
lines, mode 0600). Hosts are looked up now: where the store's addresses change,
give its networks with --allow.

examples:
  fedrounds-site install-service --config site.yaml --print     read the unit first
  fedrounds-site install-service --config site.yaml --dry-run   what would be done
  sudo fedrounds-site install-service --config site.yaml
  sudo fedrounds-site install-service --config site.yaml --allow 192.0.2.0/24 --memory 8G
"""

from __future__ import annotations

import argparse
import ipaddress
import re
from pathlib import Path

USER = "fedrounds-site"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("site.yaml"), metavar="FILE", help="site.yaml")
    parser.add_argument("--user", type=_user, default=USER, help=f"whom it runs as (default {USER})")
    parser.add_argument(
        "--allow", type=_network, action="append", default=[], metavar="NETWORK",
        help="address or network that it may reach, instead of what site.yaml's hosts have now; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--memory", type=_size, default="4G", help="most memory of agent and jobs together (default 4G)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say each step, do none")
    parser.add_argument("--print", action="store_true", help="print the unit, do nothing")


def run(args: argparse.Namespace) -> int:
    from sites.service import unit_text
    from sites.settings import load_site
    from sites.systemd import install_steps, take

    site = load_site(args.config)
    text = unit_text(site, args.config, args.user, args.memory, args.allow)
    if args.print:
        print(text, end="")
        return 0
    for sentence in take(install_steps(site, args.config, args.user, text), args.dry_run):
        print(sentence, flush=True)
    return 0


def _user(text: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a user")
    return text


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is no address or network: {exc}") from exc


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]*[KMGT]", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected one such as 4G")
    return text
