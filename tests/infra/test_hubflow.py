"""A flow is played where Prefect cannot begin it, and only once where Prefect fails later."""

from __future__ import annotations

import pytest
from prefect import Flow

from infra.orchestrator.hubflow import HubFlow


def a_flow(calls: list[int]) -> HubFlow:
    def play() -> int:
        calls.append(1)
        return 7

    return HubFlow(play, lambda: True, name="played", flow_run_name="played")


def test_a_run_that_prefect_cannot_begin_is_played_without_it(monkeypatch):
    """Its server was killed between our look and its own: what Prefect raises then is of several types."""

    def unreachable(_flow: object) -> None:
        raise RuntimeError("Failed to reach API")

    monkeypatch.setattr(Flow, "__call__", unreachable)
    calls: list[int] = []

    assert a_flow(calls)() == 7
    assert calls == [1]


def test_a_run_that_was_begun_is_not_played_again(monkeypatch):
    """Prefect's trouble after the run is Prefect's: the run stands, and the error is not hidden."""

    def fails_at_the_end(flow: Flow) -> None:
        flow.fn()
        raise RuntimeError("a bug of Prefect")

    monkeypatch.setattr(Flow, "__call__", fails_at_the_end)
    calls: list[int] = []

    with pytest.raises(RuntimeError, match="a bug"):
        a_flow(calls)()
    assert calls == [1]
