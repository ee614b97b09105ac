"""Hub: open what a site put into the store. Verification decides nothing; None means: not by that site."""

from __future__ import annotations

import logging
from typing import TypeVar

from infra.errors import SealError
from infra.signing import unseal
from tasks.contracts import Message

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)


def open_from_site(raw: bytes, model: type[M], site: str, public_key: str | None) -> M | None:
    """The message, if the site's pinned key signed it and it has the model's form."""
    if public_key is None:
        return None
    try:
        return unseal(raw, model, site, public_key)
    except SealError as exc:
        log.warning("a %s from site %s is not accepted: %s", model.__name__, site, exc)
        return None
