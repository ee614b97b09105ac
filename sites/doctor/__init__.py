"""Is this site ready? Rows of facts, each with its cure. No record is shown or sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Literal, NamedTuple

from infra.errors import InfraError
from sites.runner import where
from sites.settings import Site
from tasks.errors import FederationError

CHECKS = ("machine", "resources", "books", "network", "contact", "rights", "studies", "data", "dryrun")
"""Modules of this package, each with `checks()`, in an order in which an earlier cure may heal later rows."""


class Row(NamedTuple):
    """One fact. `cure` is empty where nothing needs to be done, or where the text says what."""

    name: str
    state: Literal["ok", "warn", "fail"]
    text: str
    cure: str = ""


Check = Callable[[Site], Iterable[Row]]


def examine(site: Site) -> Iterator[Row]:
    """All checks."""
    for name in CHECKS:
        for check in import_module(f"sites.doctor.{name}").checks():
            yield from _guarded(check, site)


def examine_first(site: Site) -> Iterator[Row]:
    """The light ones, before the agent's first start: neither network nor training libraries."""
    machine, resources, books = (
        import_module(f"sites.doctor.{n}") for n in ("machine", "resources", "books")
    )
    own = (machine.state_folder, machine.disk, machine.key, resources.room, resources.locks, *books.checks())
    for check in (*own, import_module("sites.doctor.studies").sources):
        yield from _guarded(check, site)


def _guarded(check: Check, site: Site) -> Iterator[Row]:
    try:
        yield from check(site)
    except (FederationError, InfraError) as exc:
        yield Row(check.__name__, "fail", str(exc))  # such a text names its cure
    except Exception as exc:  # noqa: BLE001 - one broken check must not hide the others
        yield Row(check.__name__, "fail", f"the check itself failed: {where(exc)}", "report this as a bug")
