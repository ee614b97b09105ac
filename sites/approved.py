"""What was approved, kept so that the next version can be compared with it: terms and sources by their hash.

Files are named by what they hold, and are read back only where they still hold
it. That a version is approved is said by approvals.py alone.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path

from infra.errors import FileError
from infra.keyfile import write_durably
from sites.votes import Vote
from tasks.recipes import sources_sha256
from tasks.study import Study

FOLDER = "approved"  # in the state folder


def keep(state: Path, vote: Vote, study: Study, sources: Mapping[str, bytes]) -> None:
    """Keep what a vote is about. Raises FileError."""
    try:
        (state / FOLDER).mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(_path(state, "study", vote.study_sha256), study.to_bytes())
        text = {name: b64encode(source).decode() for name, source in sources.items()}
        write_durably(_path(state, "recipe", vote.recipe_sha256), json.dumps(text).encode(), folder_too=True)
    except OSError as exc:
        raise FileError(f"{state / FOLDER} cannot be written ({exc.strerror}); nothing was approved") from exc


def kept_study(state: Path, vote: Vote) -> Study | None:
    """The terms of a vote; None where they are lost or changed."""
    try:
        study = Study.model_validate_json(_path(state, "study", vote.study_sha256).read_bytes())
    except (OSError, ValueError):
        return None
    return study if study.sha256 == vote.study_sha256 else None


def kept_sources(state: Path, vote: Vote) -> dict[str, bytes] | None:
    """The recipe's modules of a vote; None where they are lost or changed."""
    try:
        text = json.loads(_path(state, "recipe", vote.recipe_sha256).read_bytes())
        sources = {str(name): b64decode(source, validate=True) for name, source in text.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return sources if sources_sha256(vote.version, sources) == vote.recipe_sha256 else None


def _path(state: Path, kind: str, sha256: str) -> Path:
    return state / FOLDER / f"{kind}-{sha256}.json"
