"""What services and files can do wrong, in one tree (tasks/errors.py holds the federation's own).

InfraError
  FileError      a file of the user's is missing or wrong: names the line and the cure
  StoreError     the object store refused or cannot be reached
    UploadClosedError  there is no valid address to write this object to
  SealError      a message is oversized, unreadable, altered or signed by somebody else
  ServiceError   a server of the hub does not start or answer
  RunCancelledError  somebody has taken the run back
"""

from __future__ import annotations


class InfraError(Exception):
    """Base of all expected errors of infra: a command prints the text and exits with `exit_code`."""

    exit_code = 1


class FileError(InfraError):
    exit_code = 2


class StoreError(InfraError):
    """`passing`: the same call may succeed later, when a server is back or a disk has room."""

    exit_code = 4

    def __init__(self, text: str = "", *, passing: bool = False):
        super().__init__(text)
        self.passing = passing


class UploadClosedError(StoreError):
    """Trying again does not help, until somebody sends a new address (infra/store/presigned.py)."""


class SealError(InfraError):
    exit_code = 3


class ServiceError(InfraError):
    exit_code = 4


class RunCancelledError(InfraError):
    """Somebody has cancelled the run: what plays it ends, and is shown as cancelled and not as failed."""

    exit_code = 7
