"""site.yaml: strict, with absolute places, and light enough for an idle agent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import FileError
from sites.settings import Disclosure, Limits, Source, load_site

MINIMAL = "site: cleveland\nstore: file:///srv/store\nlimits: {epsilon: 10.0, delta: 1.0e-3}\n"


@pytest.fixture
def write(tmp_path: Path):
    def writer(text: str) -> Path:
        path = tmp_path / "site.yaml"
        path.write_text(text)
        return path

    return writer


def test_a_minimal_file_has_careful_defaults(write, tmp_path):
    """What an institution does not say must not cost it."""
    site = load_site(write(MINIMAL))

    assert site.settings.limits == Limits(epsilon=10, delta=1e-3, min_records=30)
    assert site.settings.disclosure == Disclosure(min_held_out=10, decimals=3)
    assert (site.settings.testing.seeded_noise, site.settings.privacy_none, site.settings.sources) == (
        False,
        (),
        {},
    )
    assert site.state == tmp_path / "cleveland.state"


def test_a_whole_file(write):
    """Every key once."""
    site = load_site(write(MINIMAL + (
        "sources:\n  heart:\n    url: 'csv:data/a.csv'\n    missing: ['?', -9]\n    missing_in: {chol: [0]}\n"
        "    columns: [age, chol, who]\n    person: who\n    separator: ';'\n"
        "disclosure: {min_held_out: 1, decimals: 4}\nprivacy_none: [open]\nstate: elsewhere\n"
        "store_ca: ca.pem\nproxy: http://proxy:3128\nresources: {threads: 2}\ntesting: {seeded_noise: true}\n"
    )))  # fmt: skip

    assert site.settings.sources["heart"] == Source(
        url="csv:data/a.csv",
        missing=("?", -9),
        missing_in={"chol": (0,)},
        columns=("age", "chol", "who"),
        person="who",
        separator=";",
    )
    assert site.state == site.base / "elsewhere"
    assert site.settings.store_ca == str(site.base / "ca.pem")


@pytest.mark.parametrize(
    ("store", "absolute"),
    [
        ("file:///srv/store", "file:///srv/store"),
        ("file:/srv/store", "file:///srv/store"),
        ("file:store", "file://{base}/store"),
        ("file:../my%20store", "file://{parent}/my%20store"),
        (
            "s3://bucket/prefix?endpoint=https://s3.hospital",
            "s3://bucket/prefix?endpoint=https://s3.hospital",
        ),
    ],
)
def test_the_store_is_absolute(write, tmp_path, store, absolute):
    """Relative places begin at the file's folder, wherever the agent is started."""
    site = load_site(write(MINIMAL.replace("file:///srv/store", store)))

    assert site.settings.store == absolute.format(base=tmp_path, parent=tmp_path.parent)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL.replace("epsilon: 10.0", "epsilon: 0"), "line 3: limits.epsilon: found 0, expected more than 0"),
        (MINIMAL.replace("delta: 1.0e-3", "delta: 1"), "line 3: limits.delta: found 1, expected less than 1"),
        (MINIMAL.replace("file:///srv", "http://srv"), 'line 2: store: cannot reach "http://srv/store"; expected file:FOLDER'),
        (MINIMAL.replace("file:///srv", "file://srv"), 'line 2: store: cannot reach "file://srv/store"; expected file:FOLDER'),
        (MINIMAL + "sources:\n  heart: {url: 'xlsx:a'}", 'line 5: sources.heart.url: cannot read "xlsx:a"; expected csv: and a path'),
        (MINIMAL + "sources:\n  heart: {url: 'csv:'}", 'line 5: sources.heart.url: cannot read "csv:"'),
        (MINIMAL + "sources:\n  heart: {url: 'csv:a', columns: [a, a]}", "line 5: sources.heart.columns: columns has a name twice"),
        (MINIMAL + "sources:\n  heart: {url: 'csv:a', columns: [a], person: b}", "line 5: sources.heart.person: person names 'b', which is not among columns"),
        (MINIMAL + "sources:\n  heart: {url: 'csv:a', columns: [a], missing_in: {b: [0]}}", "line 5: sources.heart.missing_in: missing_in names 'b'"),
        (MINIMAL + "sources:\n  heart: {url: 'csv:a', separator: ';;'}", 'sources.heart.separator: found text ";;", expected at most 1 characters'),
        (MINIMAL + "disclosure: {decimals: 5}", "line 4: disclosure.decimals: found 5, expected at most 4"),
        (MINIMAL + "limit: 3", "line 4: limit: unknown key; did you mean `limits`?"),
    ],
)  # fmt: skip
def test_a_wrong_file_names_line_and_cure(write, text, said):
    """Hospital IT reads this, at the first start and in `doctor`."""
    with pytest.raises(FileError) as caught:
        load_site(write(text))

    assert said in str(caught.value)


def test_in_a_simulation_noise_repeats_and_the_state_is_another(write, tmp_path):
    """A simulation must neither touch the real ledger nor give new numbers each time."""
    site = load_site(write(MINIMAL))

    simulated = site.in_simulation(tmp_path / "else")

    assert (simulated.state, simulated.settings.testing.seeded_noise) == (tmp_path / "else", True)
    assert not site.settings.testing.seeded_noise


def test_reading_it_imports_nothing_heavy():
    """The idle agent holds it in less than 60 MB."""
    code = (
        "import sys, sites.settings, sites.sources;"
        "print(sorted({'numpy', 'pandas', 'torch', 'boto3', 'tasks.recipes'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "[]"
