"""What the people of a site are asked to approve, and what an approval is of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from tasks.codes import WORK, Operation
from tasks.contracts import Keys, Message, Name, Sha256, empty


def approval_sha256(
    study: str,
    study_sha256: str,
    recipe_sha256: str,
    operations: tuple[Operation, ...] = WORK,
    members: Mapping[str, Keys] = MappingProxyType({}),
) -> str:
    """What an approval is of: one digest over terms, code (fedrounds' version is in it), operations and members."""
    words = ["approval", study, study_sha256, recipe_sha256, *sorted(operations)]
    words += [f"{name} {keys.public_key} {keys.agreement_key}" for name, keys in sorted(members.items())]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


class Proposal(Message):
    """What sites are asked to approve before any ticket comes; overwritten by the next version of the study."""

    kind: Literal["proposal"] = "proposal"
    study: Name
    study_sha256: Sha256
    recipe_sha256: Sha256
    operations: tuple[Operation, ...] = Field(min_length=1, max_length=20)
    version: str = Field(max_length=40)  # of the hub's fedrounds
    parameters_bytes: int = Field(ge=1, le=2**40)  # of the model, in every round; bounds each update
    proposed_at: float
    members: dict[Name, Keys] = Field(default_factory=dict, exclude_if=empty)  # whom secure sums are between

    @property
    def approval_sha256(self) -> str:
        return approval_sha256(
            self.study, self.study_sha256, self.recipe_sha256, self.operations, self.members
        )
