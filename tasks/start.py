"""Where a study begins, when not at its recipe's own start: parameters that are named by their sha256.

The digest is a term of the study, so that each site's people approve it, and
each site holds the first round to it. Where the bytes lie is starting.py's work.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from tasks.contracts import Message, Name, Sha256


class Start(Message):
    """Public parameters in a file beside study.yaml, or a version of a model that this hub has registered."""

    file: str | None = Field(default=None, min_length=1, max_length=300)
    model: Name | None = None
    version: int | None = Field(default=None, ge=1)
    sha256: Sha256

    @model_validator(mode="after")
    def _one(self) -> Start:
        if (self.file is None) == (self.model is None) or (self.model is None) != (self.version is None):
            raise ValueError(
                "start takes the file of public parameters, or model and version of a registered one; name one of them"
            )
        return self

    def __str__(self) -> str:
        if self.file is not None:
            return f"the parameters in {self.file}"
        return f"version {self.version} of the registered model {self.model}"
