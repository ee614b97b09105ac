"""YAML files of users: every error has its line, its key and its cure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.errors import FileError
from infra.yamlfile import MAX_BYTES, load


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Number(Strict):
    kind: Literal["number"]
    range: tuple[float, float]


class Choice(Strict):
    kind: Literal["choice"]
    values: list[int]


class Inner(Strict):
    clip_norm: float = Field(gt=0)
    mode: Literal["local", "none"] = "local"


class Terms(Strict):
    name: str
    rounds: int = Field(ge=1)
    size: int | Literal["full"] = "full"
    inner: Inner | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    columns: dict[str, Annotated[Number | Choice, Field(discriminator="kind")]] = Field(default_factory=dict)
    tags: tuple[str, ...] = ()
    norm: Annotated[float, Field(gt=0)] | Inner | None = None

    @model_validator(mode="after")
    def _together(self) -> Terms:
        if self.rounds > 100:
            raise ValueError(f"rounds {self.rounds} is too much for {self.name}; lower rounds")
        return self


@pytest.fixture
def write(tmp_path: Path):
    def writer(text: str | bytes) -> Path:
        path = tmp_path / "study.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return writer


def errors(path: Path, model: type[BaseModel] = Terms) -> list[str]:
    """The error's lines, without the path."""
    with pytest.raises(FileError) as caught:
        load(path, model)
    return [line.removeprefix(str(path)) for line in str(caught.value).splitlines()]


GOOD = "name: heart\nrounds: 3\n"


def test_a_right_file_becomes_its_model(write):
    """Whole numbers serve as numbers and lists as tuples; nothing else is bent."""
    value = load(write(GOOD + "inner: {clip_norm: 1}\ntags: [a, b]\n"), Terms).value

    assert (value.inner, value.tags) == (Inner(clip_norm=1.0), ("a", "b"))


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("1.0e-3", 1e-3), ("3", 3.0), ("1_000", 1000.0), (".5", 0.5)]
)
def test_numbers_as_people_write_them(write, text, value):
    """1e-3 is a number in YAML 1.2, and was text in 1.1."""
    assert load(write(GOOD + f"inner: {{clip_norm: {text}}}"), Terms).value.inner.clip_norm == value


@pytest.mark.parametrize(
    ("text", "value"), [("2026-01-02", "2026-01-02"), ("yes", "yes"), ("12:30", "12:30"), ('"3"', "3")]
)
def test_what_looks_like_text_stays_text(write, text, value):
    """No file of ours holds dates, and `yes` is a word."""
    assert load(write(f"name: {text}\nrounds: 3"), Terms).value.name == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: heart\nrounds: three", ', line 2: rounds: found text "three", expected a whole number'),
        ('name: heart\nrounds: "3"', ', line 2: rounds: found text "3", expected a whole number; remove the quotes'),
        ("name: heart\nrounds: true", ", line 2: rounds: found true, expected a whole number"),
        ("name: heart\nrounds: 0", ", line 2: rounds: found 0, expected at least 1"),
        ("name: heart\nrounds:", ", line 2: rounds: found nothing, expected a whole number"),
        ("name: 3\nrounds: 1", ", line 1: name: found 3, expected text; put it in quotes"),
        ("# c\n\nname: heart", ", line 3: rounds: is missing; add it"),
        (GOOD + "inner:\n  mode: local", ", line 3: inner.clip_norm: is missing; add it"),
        (GOOD + "inner:\n  clip_norm: 1\n  mode: globl", ', line 5: inner.mode: found text "globl", expected local or none'),
        (GOOD + "inner: {clip_norm: .inf}", ", line 3: inner.clip_norm: found inf, expected a finite number"),
        (GOOD + "inner: [1]", ", line 3: inner: found a list of 1, expected a block of keys"),
        (GOOD + "size: 2.5", ", line 3: size: found 2.5, expected a whole number or full"),
        (GOOD + "tags: a", ', line 3: tags: found text "a", expected a list such as [a, b]; write it as a list'),
        (GOOD + "tags:\n  - a\n  - 2", ", line 5: tags[entry 2]: found 2, expected text; put it in quotes"),
        (GOOD + "columns:\n  age: {kind: number, range: [1]}", ", line 4: columns.age.range[entry 2]: is missing; add it"),
        (GOOD + "columns:\n  age:\n    kind: numbr", ', line 5: columns.age.kind: found text "numbr", expected number or choice'),
        (GOOD + "columns:\n  age: {range: [1, 2]}", ", line 4: columns.age: `kind` is missing; add it: number or choice"),
        ("- a", ", line 1: found a list of 1, expected a block of keys"),
    ],
)  # fmt: skip
def test_a_wrong_value_names_line_key_finding_and_expectation(write, text, said):
    """A person who reads the line can correct it without opening the documentation."""
    assert errors(write(text)) == [said]


def test_an_unknown_key_suggests_the_nearest(write):
    """Most unknown keys are typing errors."""
    assert errors(write(GOOD + "inner:\n  clip_nrm: 1\n  clip_norm: 1")) == [
        ", line 4: inner.clip_nrm: unknown key; did you mean `clip_norm`?"
    ]


def test_an_unknown_key_inside_a_union_suggests_the_nearest(write):
    """The kind chooses which keys are known."""
    assert errors(write(GOOD + "columns:\n  age: {kind: number, range: [1, 2], rnge: [1, 2]}")) == [
        ", line 4: columns.age.rnge: unknown key; did you mean `range`?"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{clip_norm: 0}", "norm.clip_norm: found 0, expected more than 0"),
        ("{clip_nrm: 1, clip_norm: 1}", "norm.clip_nrm: unknown key; did you mean `clip_norm`?"),
        ("{}", "norm.clip_norm: is missing; add it"),
        ("-1", "norm: found -1, expected more than 0 or a block of keys"),
        ("much", 'norm: found text "much", expected a number or a block of keys'),
    ],
)
def test_a_block_of_keys_is_not_told_that_it_might_have_been_a_number(write, text, said):
    """Of a value of several types, the errors are of the one whose shape it has."""
    assert errors(write(GOOD + f"norm: {text}")) == [f", line 3: {said}"]


def test_an_unknown_key_unlike_any_other_lists_all(write):
    """Then the list is the cure."""
    (said,) = errors(write(GOOD + "inner: {clip_norm: 1, zzz: 1}"))

    assert said == ", line 3: inner.zzz: unknown key; the keys here are `clip_norm`, `mode`"


def test_all_errors_come_at_once_in_the_order_of_lines(write):
    """Correcting a file takes one look, not one look per error."""
    said = errors(write("nam: heart\ninner: {clip_norm: 0}\nrounds: x"))

    assert [line.split(":")[0] for line in said] == [", line 1", ", line 1", ", line 2", ", line 3"]


def test_an_error_between_keys_names_the_line_of_the_key_it_speaks_of(write):
    """The model's own checks know no lines."""
    assert errors(write("name: heart\nrounds: 101")) == [
        ", line 2: rounds: rounds 101 is too much for heart; lower rounds"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nname: b\nrounds: 1", ", line 2: name: found a second time, expected once; remove one of them"),
        ("1: a", ", line 1: found a key that is no text, expected a name; put it in quotes"),
        ("tags: &x [a]\nsettings:\n  b: *x", ", line 3: settings.b: found an alias (*name), expected the value itself; write it out"),
        ("name: !!python/object:os.system x", ", line 1: name: found the tag python/object:os.system, expected a plain value; remove the tag"),
        ("a: &x {b: 1}\n<<: *x", ", line 2: found a key that is no text, expected a name; put it in quotes"),
        ("name: a\n\trounds: 1", ", line 2: not YAML: a tab in the indentation; indent with spaces"),
        ('name: "a\nrounds: 1', ", line 1: not YAML: found unexpected end of stream; look for a missing quote, bracket or colon, or a wrong indentation, here or just above"),
        ("name: a\nrounds\n", ", line 2: not YAML: could not find expected ':'; write `key: value`, with a space after the colon"),
        ("name: a\n---\nname: b", ", line 2: not YAML: a second document (---); put one document into a file"),
        ("", ", line 1: the file is empty; expected the keys `name`, `rounds`"),
        ("[" * 5000, ": not YAML: nested too deeply; expected a few levels of keys"),
        (b"name: a\nrounds: \xff", ", line 2: not UTF-8 text; save the file as UTF-8"),
        (b"a" * (MAX_BYTES + 1), f": more than {MAX_BYTES} bytes; expected a small YAML file"),
    ],
)  # fmt: skip
def test_what_no_file_of_ours_holds_is_refused(write, text, said):
    """Tags, aliases and merges are how a small file becomes a large or a live thing."""
    assert errors(write(text)) == [said]


def test_an_absent_file_is_named(tmp_path):
    """The commonest error of all."""
    assert errors(tmp_path / "nope.yaml") == [": there is no such file"]
    assert errors(tmp_path) == [": cannot be read (Is a directory); expected a readable YAML file"]


def test_a_part_is_checked_later_with_the_lines_of_the_whole_file(write):
    """The recipe's own model of its settings is known only after the study was read."""
    document = load(write(GOOD + "settings:\n  mode: local\n  clip_norm: -1\n"), Terms)

    with pytest.raises(FileError, match=r"line 5: settings\.clip_norm: found -1, expected more than 0"):
        document.check(Inner, "settings")


def test_an_absent_part_is_checked_as_an_empty_one(write):
    """Then the line is that of the nearest block."""
    document = load(write(GOOD), Terms)

    with pytest.raises(FileError, match=r"line 1: settings\.clip_norm: is missing"):
        document.check(Inner, "settings")


def test_lines_of_keys(write):
    """Later checks name the line themselves."""
    document = load(write(GOOD + "settings:\n  age:\n    - 1\n    - 2\n"), Terms)

    assert [document.line_of(*k) for k in ((), ("rounds",), ("settings", "age"), ("settings", "age", 1), ("settings", "x"))] == [1, 2, 4, 6, 3]  # fmt: skip
