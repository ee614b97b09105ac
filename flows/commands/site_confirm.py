"""Make a site a member, after its six words were compared by telephone.

Shows the words of whoever answered the kit. Where two have answered under one
name, both are shown and nothing happens until --words names one.

examples:
  fedrounds site confirm hospital-a
  fedrounds site confirm hospital-a --words "maple orbit sun tide cat lamp"
  fedrounds site confirm hospital-a --yes          the words were compared already
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flows.commands.options import add_dir

if TYPE_CHECKING:
    from tasks.invitations import Answered


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the site's name")
    parser.add_argument("--words", metavar="WORDS", help="the site's six words as you were told them")
    parser.add_argument("--yes", action="store_true", help="do not ask; only where one has answered")
    add_dir(parser)


def run(args: argparse.Namespace) -> int:
    from infra.hub import Hub
    from tasks.invitations import answers, confirm

    hub = Hub.load(args.dir)
    chosen = choose(args.name, answers(hub, args.name), args.words)
    if not (args.yes or args.words):
        _ask(args.name, chosen)
    word = confirm(hub, args.name, chosen)
    print(f"{args.name} is a member (word {word.number}); its agent goes on by itself")
    return 0


def choose(name: str, found: list[Answered], words: str | None) -> Answered:
    """The one answer that is meant.

    Raises:
        FileError: nobody has answered, nobody with these words, or two and none is named.
    """
    from infra.errors import FileError
    from infra.fingerprint import same_words

    good = [one for one in found if not one.problem]
    if not good:
        why = f"; {len(found)} answered, but {found[0].problem}" if found else ""
        raise FileError(f"site {name!r} has not answered a kit yet{why}")
    if words is not None:
        meant = [one for one in good if same_words(words, one.words)]
        if not meant:
            shown = " and ".join(repr(one.words) for one in good)
            raise FileError(
                f"nobody with these words has answered as {name!r}, but {shown}: do not confirm them"
            )
        return meant[0]
    if len(good) > 1:
        shown = "".join(f"\n  {one.words}" for one in good)
        raise FileError(
            f"{len(good)} have answered as {name!r}, with other keys each:{shown}\n"
            f"Somebody has the kit who should not. "
            f'Ask the site for its words by telephone, then: fedrounds site confirm {name} --words "..."'
        )
    return good[0]


def _ask(name: str, chosen: Answered) -> None:
    """Raises FileError: the person says no, or there is none to ask."""
    from infra.errors import FileError

    print(f"{name} has answered. By telephone, its people must say these six words:\n  {chosen.words}")
    try:
        said = input("Do they? [yes/no] ")
    except EOFError:
        said = ""
    if said.strip().lower() not in ("y", "yes"):
        raise FileError(
            "nothing was confirmed: answer yes once the words were compared by telephone, "
            'or name them with --words "..."'
        )
