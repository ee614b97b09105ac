"""What can go wrong in a federation, in one tree (services and files: infra/errors.py).

    FederationError                a person or a program must act; the text names the cure
      StudyError                   the study or its recipe is wrong
      RecordError                  a table that a recipe cannot read: names columns, never values
      ContractError                a message or payload is not what its sender promised
      AggregationError             updates that cannot be combined
      SecureSumError               a step of a secure sum that would be unsafe or cannot work
      PrivacyError                 a privacy setting that is impossible or unsafe
      QuorumError                  too few sites answered
      LeaseError                   another hub holds the study
      RefusedError                 a site's typed no: carries a Code, its text stays at the site

Texts give values, what was expected and what to do. Exception text never
leaves a site; the hub learns a codes.Code.
"""

from __future__ import annotations

from tasks.codes import Code


class FederationError(Exception):
    """Base of all expected errors: a command prints the text and exits with `exit_code`."""

    exit_code = 1


class StudyError(FederationError):
    exit_code = 2


class RecordError(FederationError):
    """`missing` names absent columns; empty where a value could not be read."""

    def __init__(self, text: str, missing: tuple[str, ...] = ()):
        super().__init__(text)
        self.missing = missing


class ContractError(FederationError):
    exit_code = 3


class AggregationError(FederationError):
    exit_code = 3


class SecureSumError(FederationError):
    exit_code = 3


class PrivacyError(FederationError):
    exit_code = 2


class QuorumError(FederationError):
    """`what` is the text without its cure: a round that is played again, or a simulation, has another one."""

    exit_code = 5

    def __init__(self, what: str, cure: str = ""):
        super().__init__(f"{what} {cure}".rstrip())
        self.what = what


class LeaseError(FederationError):
    exit_code = 6


class RefusedError(FederationError):
    """A site refuses a ticket. `code` may leave the site, the text may not."""

    exit_code = 5

    def __init__(self, code: Code, text: str):
        super().__init__(text)
        self.code = code
