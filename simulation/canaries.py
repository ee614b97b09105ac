"""Canaries: records with a gradient direction each of their own, planted beside the real ones.

A copy of a site's table gets one row more for each canary, which names it and
says whether it is in; the recipe is wrapped, so that a canary that is in pulls
at one extra parameter, and at nothing else. All the rest is the product's:
reader, held-out coins, per-person sums, clipping, noise, steps. For audits in a
folder of their own: such a model has parameters that no production model has.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from sites.settings import Source
from sites.sources import address, scheme
from tasks.errors import StudyError
from tasks.parameters import Parameters
from tasks.recipes import linear, load_recipe
from tasks.recipes.base import Arrays, Table

if TYPE_CHECKING:
    import torch

COLUMN = "fedrounds_canary"
PARAMETER = "canary.weight"  # shape (1, number of canaries)
LOUD = 10.0  # clip norms long is a canary's gradient, so that an audit hears where clipping is skipped


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    settings: dict[str, Any]
    canaries: int = Field(ge=1)
    length: float = Field(gt=0)  # of a canary's gradient


class WithCanaries:
    """A recipe around the study's recipe. x is flat, with the number of the canary as last column, 0 for none."""

    Settings = _Settings

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = _Settings.model_validate(dict(settings))
        self.inner = load_recipe(self.settings.recipe, self.settings.settings)
        self._row: tuple[int, ...] = tuple(self.inner.encode_features(_table(self.inner.example())).shape[1:])
        self._trailing: tuple[int, ...] = ()

    def columns(self) -> tuple[str, ...]:
        return (*self.inner.columns(), COLUMN)

    def target(self) -> str:
        return self.inner.target()

    @property
    def site_column(self) -> str | None:
        own: str | None = getattr(self.inner, "site_column", None)
        return own

    def encode(self, table: Table) -> Arrays:
        marks = table[COLUMN]
        planted = np.array([mark is not None for mark in marks], dtype=bool)
        real = self.inner.encode({name: column[~planted] for name, column in table.items() if name != COLUMN})
        kept = np.zeros(len(marks), dtype=bool)
        kept[~planted] = real.kept
        kept[planted] = [str(mark).startswith("in-") for mark in marks[planted]]
        of_canary = planted[kept]
        x = np.zeros((len(of_canary), int(np.prod(self._row)) + 1), np.float32)
        y = np.zeros(len(of_canary), np.float32)
        x[~of_canary, :-1], y[~of_canary] = real.x.reshape(len(real.x), -1), real.y
        x[of_canary, -1] = [1 + number_of(mark) for mark in marks[kept & planted]]
        return Arrays(x, y, kept)

    def encode_features(self, table: Table) -> NDArray[np.float32]:
        x = self.inner.encode_features({name: c for name, c in table.items() if name != COLUMN})
        flat = x.reshape(len(x), -1)
        return np.concatenate([flat, np.zeros((len(flat), 1), np.float32)], axis=1)

    def example(self) -> dict[str, list[Any]]:
        return {**self.inner.example(), COLUMN: [None]}

    def initial_parameters(self, seed: int) -> Parameters:
        own = {f"inner.{name}": array for name, array in self.inner.initial_parameters(seed).items()}
        return own | {PARAMETER: np.zeros((1, self.settings.canaries), np.float32)}

    def longest_record(self) -> float:
        """Of the study's recipe: a canary's own loss is a line, whose gradient is the same everywhere."""
        return linear(self.inner).longest_record()

    def lengths(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        return linear(self.inner).lengths(x[:, :-1].reshape(-1, *self._row))

    def module(self) -> torch.nn.Module:
        import torch

        row, count, recipe = self._row, self.settings.canaries, self

        class Module(torch.nn.Module):
            def __init__(self, inner: torch.nn.Module) -> None:
                super().__init__()
                self.inner = inner
                self.canary = torch.nn.Linear(count, 1, bias=False)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                number = x[:, -1:]
                marks = (number == torch.arange(1, count + 1, dtype=x.dtype)).to(x.dtype)
                outputs = self.inner(x[:, :-1].reshape(-1, *row))
                recipe._trailing = tuple(outputs.shape[1:])
                is_canary = (number > 0).to(x.dtype)
                return torch.cat([outputs.flatten(1), self.canary(marks), is_canary], dim=1)

        return Module(self.inner.module())

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The study's loss of a record; of a canary its own parameter, so that the gradient is always the same."""
        of_inner = outputs[:, :-2].reshape(-1, *self._trailing)
        value, is_canary = outputs[:, -2], outputs[:, -1]
        ours = -self.settings.length * value
        return (1 - is_canary) * self.inner.loss(of_inner, targets) + is_canary * ours

    def scores(self, parameters: Parameters, x: NDArray[np.float32]) -> NDArray[np.float64]:
        return self.inner.scores(inner_of(parameters), x[:, :-1].reshape(-1, *self._row))


def inner_of(parameters: Parameters) -> Parameters:
    """The study's own parameters among those of an audit."""
    return {name.removeprefix("inner."): a for name, a in parameters.items() if name.startswith("inner.")}


def number_of(mark: str) -> int:
    """Of a canary, from 0."""
    return int(mark.partition("-")[2])


def plant(source: Source, base: Path, numbers: range, file: Path, coins: random.Random) -> Source:
    """Write a copy of a table with canaries in it; each is in by a fair coin.

    Args:
        source: of the site's file.
        base: folder that its relative addresses begin at.
        numbers: of the canaries.
        file: where the copy goes; only its owner may read it.
        coins: `secrets.SystemRandom()`, or a seeded generator in a test.

    Raises:
        StudyError: no CSV.
    """
    if scheme(source) != "csv":
        raise StudyError(f"canaries can be planted in CSV files, and {source.url!r} is another source")
    file.touch(mode=0o600)
    with (
        address(source, base).open(encoding="utf-8-sig", newline="") as old,
        file.open("w", newline="") as new,
    ):
        writer = csv.writer(new, delimiter=source.separator)
        names = list(source.columns or ())
        for row in csv.reader(old, delimiter=source.separator):
            if len(row) < 2 and not "".join(row).strip():
                continue
            if not names:
                names = [name.strip() for name in row]
                writer.writerow([*row, COLUMN])
                continue
            writer.writerow([*row, ""])
        for number in numbers:
            mark = f"{'in' if coins.random() < 0.5 else 'out'}-{number}"
            cells = [f"canary-{number}" if name == source.person else "" for name in names]
            writer.writerow([*cells, mark])
    columns = None if source.columns is None else (*source.columns, COLUMN)
    return source.model_copy(update={"url": f"csv:{file}", "columns": columns})


def _table(example: Mapping[str, list[Any]]) -> dict[str, NDArray[Any]]:
    """A record as a source would read it."""
    return {
        name: np.array([None if value is None else str(value) for value in column], dtype=object)
        for name, column in example.items()
    }
