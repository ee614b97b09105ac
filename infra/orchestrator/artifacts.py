"""A page of markdown that Prefect shows with a flow run: an artifact."""

from __future__ import annotations

import logging
import re

from infra.orchestrator.context import inside

log = logging.getLogger(__name__)


def page(key: str, markdown: str, description: str) -> None:
    """Show a page in the flow run that calls; the pages of one key are versions of each other.

    A courtesy: where Prefect is away, it is missing.

    Args:
        key: such as `participation-heart`; what Prefect does not allow in it becomes a dash.
        markdown: the page.
        description: a line above it.
    """
    if not inside():
        return
    from prefect.artifacts import create_markdown_artifact

    try:
        create_markdown_artifact(markdown, re.sub(r"[^a-z0-9-]+", "-", key), description)
    except Exception as exc:  # noqa: BLE001 - no failure of the show may stop a round
        log.warning("Prefect does not take the page %s: %s", key, type(exc).__name__)
