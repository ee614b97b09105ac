"""The kill switch: a file STOP in the state folder. While it is there, nothing runs and nothing leaves.

Commands write it, and so may a hand (`touch STOP`): a file that is empty or
cannot be read pauses, since a switch must not fail by its contents. The agent
looks for it before it reads, before it trains, all the time while a job runs,
and before every upload.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import FileError
from infra.keyfile import write_durably
from tasks.errors import FederationError

FILE = "STOP"
Mode = Literal["pause", "stop"]


class Halt(BaseModel):
    """Who stopped the agent, when and why. `reason` stays at the site."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode = "pause"
    reason: str = ""
    uid: int | None = None  # None: the file was made by hand
    at: float | None = None  # seconds since 1970


def halted(state: Path) -> Halt | None:
    """What STOP says; None where the agent may work."""
    path = state / FILE
    if not os.path.lexists(path):  # a name is enough, whatever it is
        return None
    try:
        return Halt.model_validate_json(path.read_bytes())
    except FileNotFoundError:  # removed in this instant, or a dangling link
        return Halt() if os.path.lexists(path) else None
    except (OSError, ValidationError):
        return Halt()


def halt(state: Path, mode: Mode, reason: str) -> Halt:
    """Throw the switch; a power cut does not take it back. Safe to repeat: the last word counts.

    Raises:
        FileError: the file cannot be written.
    """
    said = Halt(mode=mode, reason=reason, uid=os.getuid(), at=time.time())
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(state / FILE, said.model_dump_json().encode() + b"\n", folder_too=True)
    except OSError as exc:
        raise FileError(f"{state / FILE} cannot be written ({exc.strerror}); end the agent by hand") from exc
    return said


def resume(state: Path) -> bool:
    """Take the switch back; False where it was not thrown.

    Raises:
        FileError: the file cannot be removed.
    """
    try:
        (state / FILE).unlink()
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise FileError(f"{state / FILE} cannot be removed ({exc.strerror}); remove it by hand") from exc
    return True


def may_start(state: Path) -> None:
    """Raises FederationError: the agent was stopped, and stays so until somebody resumes."""
    said = halted(state)
    if said is not None and said.mode == "stop":
        raise FederationError(
            f"the agent was stopped here by {state / FILE} (reason: {said.reason or 'none given'}); "
            f"`fedrounds-site resume --config site.yaml` allows it to start again"
        )
