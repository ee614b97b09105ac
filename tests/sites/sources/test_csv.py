"""CSV files as hospitals have them: right ones are read, wrong ones are refused without showing a cell."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sites.settings import Source
from sites.sources import Rows, fingerprint, read
from tasks.codes import Code
from tasks.errors import RefusedError


@pytest.fixture
def table(tmp_path: Path):
    """Write a file and read columns of it."""

    def reader(content: str | bytes, wanted: list[str], **source) -> Rows:
        (tmp_path / "t.csv").write_bytes(content.encode() if isinstance(content, str) else content)
        return read(Source(url="csv:t.csv", **source), tmp_path, wanted)

    return reader


def listed(rows: Rows) -> dict[str, list[str | None]]:
    return {name: values.tolist() for name, values in rows.table.items()}


def test_columns_by_header(table):
    """In the order asked for, text without surrounding whitespace, empty cells as missing."""
    rows = table("a, b ,c\n1, x ,\n2,,3\n", ["c", "b"])

    assert listed(rows) == {"c": [None, "3"], "b": ["x", None]}
    assert (rows.n, rows.persons, len(set(rows.identities.tolist()))) == (2, None, 2)


def test_columns_by_the_sites_file(table):
    """Many published files have no header."""
    rows = table("1,x\n2,y\n", ["b"], columns=["a", "b"])

    assert (listed(rows), rows.n) == ({"b": ["x", "y"]}, 2)


def test_marks_of_missing(table):
    """Text as it stands, a number in every spelling; some marks only in one column."""
    rows = table("a,b\n?,0\n-9,0.0\n-9.0,00\n0,?\n", ["a", "b"], missing=["?", -9], missing_in={"b": [0]})

    assert listed(rows) == {"a": [None, None, None, "0"], "b": [None] * 4}


def test_text_that_pandas_takes_for_missing_is_text(table):
    """NA is a country code, and None an answer."""
    assert listed(table("a\nNA\nNone\nnan\n", ["a"])) == {"a": ["NA", "None", "nan"]}


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa,b\r\n1,\xc3\xa9\r\n",
        b"a,b\n\n1,\xc3\xa9\n\n  \n",
        b'"a","b"\n"1","\xc3\xa9"',
        b'b;a\n"\xc3\xa9";1\n',
        b"b\ta\n\xc3\xa9\t1\n",
    ],
    ids=["excel", "blank lines", "quoted", "semicolons", "tabs"],
)
def test_the_forms_that_programs_write(table, content):
    """Byte order mark, line ends, quotes, separators."""
    separator = ";" if b";" in content else "\t" if b"\t" in content else ","

    assert listed(table(content, ["a", "b"], separator=separator)) == {"a": ["1"], "b": ["é"]}


def test_a_quoted_cell_may_hold_separators_and_lines(table):
    """A free text must not shift columns."""
    assert listed(table('a,b\n"x, ""y""\nz",2\n', ["a", "b"])) == {"a": ['x, "y"\nz'], "b": ["2"]}


def test_persons(table):
    """Codes by appearance; identities are stable, whoever else is there."""
    rows = table("who,a\nEve,1\nBob,2\nEve,3\n", ["a"], person="who")
    fewer = table("who,a\nBob,2\n", ["a"], person="who")

    assert rows.persons.tolist() == [0, 1, 0]
    assert rows.identities[0] == rows.identities[2] != rows.identities[1] == fewer.identities[0]
    assert "who" not in rows.table


@pytest.mark.parametrize(
    ("content", "source", "said"),
    [
        (b"", {}, "is empty"),
        (b"\n \n", {}, "is empty"),
        ("a,b\n", {}, "has a header line and no records"),
        ("a,b\nsecret,1\nsecret\n", {}, "has 1 cells in line 3 and 2 in the first row"),
        ("a,b\nsecret,1\nsecret,2,3\n", {}, "has 3 cells in line 3 and 2 in the first row"),
        ("secret,b\n1,2\n", {"columns": ["a", "b", "c"]}, "has 2 columns and site.yaml names 3"),
        ("a, b\n1,secret\n", {"columns": ["a", "b"]}, "has a header line; remove columns"),
        ("a,a\n1,secret\n", {}, "has 2 columns named 'a'"),
        ('a,b\n"secret,1\n', {}, "look for a quote that is not closed"),
        ("a,b\nsecret,\n", {"person": "b"}, "has records without a value in 'b'"),
        ("a,b\nsecret,1\n", {"missing_in": {"c": [0]}}, "has no column 'c', which missing_in names"),
        (b"PK\x03\x04\0\0secret", {}, "is no text table; export it as CSV"),
        (b"a,b\nsecret,\xe9\n", {}, "is not UTF-8 text at byte 11; save it as UTF-8"),
    ],
)
def test_an_unreadable_file_is_refused_with_its_cure(table, content, source, said):
    """The text stays at the site and still holds no cell."""
    with pytest.raises(RefusedError) as caught:
        table(content, ["a"], **source)

    assert caught.value.code == Code.UNREADABLE_DATA
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None or "secret" not in str(caught.value.__cause__)


def test_a_missing_column_is_named_and_the_others_are_not(table):
    """Where a header is missing, its names would be a patient."""
    with pytest.raises(RefusedError) as caught:
        table("61,secret\n62,x\n", ["age", "sex"])

    assert caught.value.code == Code.MISSING_COLUMN
    assert "has 2 columns and none is named 'age', 'sex'" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_absent_file_names_the_place_to_correct(tmp_path):
    """The commonest error of a first start."""
    with pytest.raises(
        RefusedError, match=r"t\.csv cannot be opened \(No such file or directory\); correct the source's url"
    ):
        read(Source(url="csv:t.csv"), tmp_path, ["a"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_says_so(table, tmp_path):
    """Permission is the hospital's to give."""
    table("a\n1\n", ["a"])
    (tmp_path / "t.csv").chmod(0)

    with pytest.raises(RefusedError, match="Permission denied"):
        read(Source(url="csv:t.csv"), tmp_path, ["a"])


def test_the_fingerprint_changes_with_file_and_source(table, tmp_path):
    """The agent keeps counts by it, and must not keep wrong ones."""
    table("a\n1\n", ["a"])
    source = Source(url="csv:t.csv")
    first = fingerprint(source, tmp_path)
    assert fingerprint(source, tmp_path) == first

    (tmp_path / "t.csv").write_text("a\n1\n2\n")

    assert (
        len(
            {
                first,
                fingerprint(source, tmp_path),
                fingerprint(Source(url="csv:t.csv", missing=["1"]), tmp_path),
            }
        )
        == 3
    )


def test_a_records_identity_is_its_content(table):
    """Held-out coins hang on it: a removed record may not move another one between training and test."""
    whole = table("a,b\n1,x\n2,y\n3,z\n", ["a", "b"]).identities.tolist()
    without = table("a,b\n2,y\n3,z\n", ["a", "b"]).identities.tolist()

    assert without == whole[1:]
