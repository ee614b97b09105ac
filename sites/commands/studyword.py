"""The argument STUDY of review, approve and reject, and the hash that a person has seen."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sites.proposals import Version

SHORTEST = 8  # characters of a hash that say which one it is


def add_study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "study", metavar="STUDY", help="a name that the hub has proposed, or a study file (.yaml)"
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="site.yaml")


def check_hash(version: Version, begins: str | None) -> None:
    """Raises ContractError: the version is not the one whose hash begins so."""
    from tasks.errors import ContractError

    if begins is None:
        return
    if len(begins) < SHORTEST or not version.approval_sha256.startswith(begins.lower()):
        raise ContractError(
            f"the study is {version.approval_sha256[:12]} now, not {begins} (at least {SHORTEST} characters): "
            f"look at it again with `fedrounds-site review {version.study.name}`"
        )
