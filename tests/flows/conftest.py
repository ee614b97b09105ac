"""Simulated deadlines run on the real clock while somebody works: the slow imports of training come before."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    for name in ("sites.survey", "sites.protect", "sites.train", "sites.score", "opacus"):
        importlib.import_module(name)
