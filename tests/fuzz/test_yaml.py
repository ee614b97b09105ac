"""study.yaml and site.yaml come by e-mail: a file is a study, or its error names a line."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import strategies as st

from infra.errors import FileError
from infra.yamlfile import load
from sites.settings import SiteSettings, load_site
from tasks.study import Study
from tests.federation import a_study
from tests.fuzz.effort import changed_json, efforts, nearly, tried
from tests.sites.builders import write_site

EXAMPLES = Path(__file__).parents[2] / "examples" / "heart"
STUDY = (EXAMPLES / "study.yaml").read_bytes()
SITE = (EXAMPLES / "cleveland.yaml").read_bytes()

BOMBS = {
    "billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "\n".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]" for i in range(9)),
    "an anchor in itself": "a: &a [*a]",
    "a mapping in itself": "&a {name: *a}",
    "merge": "a: &a {name: x}\n<<: *a\n",
    "a tag that calls": "!!python/object/apply:os.system [touch canary]",
    "deep lists": "name: " + "[" * 20_000,
    "deep lists that close": "name: " + "[" * 5_000 + "]" * 5_000,
    "deep mappings": "".join(" " * i + "a:\n" for i in range(900)),
    "deep settings": "recipe_settings: " + '{"a": ' * 400 + "1" + "}" * 400,
    "a number of a million digits": "rounds: " + "9" * 900_000,
    "a hexadecimal of a million digits": "rounds: 0x" + "f" * 900_000,
    "an octal of a million digits": "seed: 0o" + "7" * 900_000,
    "a long key": "k" * 900_000 + ": 1",
    "a key that is a list": "? [a, b]\n: 1\n",
    "the same key a thousand times": "name: x\n" * 1000,
    "many errors": "\n".join(f"key{i}: 1" for i in range(4_000)),
    "many documents": "---\nname: x\n" * 1000,
    "a null byte": "name: a\x00b\n",
    "controls": "name: \x1b[2J\x07\n",
    "a directive": "%YAML 9.9\n---\nname: x\n",
    "another directive": "%TAG ! tag:evil,2000:\n---\nname: !x y\n",
    "half an escape": 'name: "\\ud800"\n',
    "too large": "# " + "x" * 1_100_000,
    "quotes": 'name: "' + "x" * 900_000,
    "a block": "name: |\n" + " x\n" * 200_000,
    "dates": "name: 2026-01-01T00:00:00Z\nrounds: 2026-01-01\n",
    "sexagesimal": "rounds: 1:30:00\n",
    "not UTF-8": None,
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.timeout(30)
def test_a_bomb_is_an_error_with_words(tmp_path, name):
    """Small files that would become large, deep or alive."""
    path, text = tmp_path / "file.yaml", BOMBS[name]
    path.write_bytes(b"name: \xff\xfe\x00" if text is None else text.encode())

    with pytest.raises(FileError) as caught:
        load(path, Study)

    assert len(str(caught.value)) < 20_000


@efforts
@pytest.mark.parametrize(("model", "text"), [(Study, STUDY), (SiteSettings, SITE)], ids=["study", "site"])
def test_text_is_a_file_of_ours_or_an_error(effort, tmp_path, model, text):
    """Bytes that are nearly right."""
    path = tmp_path / "file.yaml"

    def check(raw: bytes) -> None:
        path.write_bytes(raw)
        try:
            value = load(path, model).value
        except FileError as exc:
            assert str(path) in str(exc)
            return
        assert model.model_validate_json(value.model_dump_json(by_alias=True)) == value

    tried(effort, 60, nearly(text), check)


@efforts
def test_values_are_a_study_or_an_error(effort, tmp_path):
    """Every YAML file that is JSON as well: values of other types, sizes and names."""
    path = tmp_path / "study.yaml"

    def check(raw: bytes) -> None:
        path.write_bytes(raw)
        try:
            study = load(path, Study).value
        except FileError:
            return
        assert len(study.sha256) == 64

    tried(effort, 40, changed_json(json.loads(a_study().model_dump_json(exclude_none=True))), check)


@efforts
def test_the_places_in_a_site_file_cannot_break_it(effort, tmp_path):
    """store, state and url are text that becomes a path."""
    good = write_site(tmp_path).read_text()

    def check(text: str) -> None:
        path = tmp_path / "odd.yaml"
        path.write_text(good.replace("url: 'csv:north.csv'", f"url: {json.dumps('csv:' + text)}"), "utf-8")
        path.write_text(path.read_text("utf-8") + f"state: {json.dumps(text)}\n", "utf-8")
        with suppress(FileError):
            load_site(path)

    text = st.text(st.characters(codec="utf-8"), max_size=40)
    tried(effort, 40, st.one_of(text, st.sampled_from(["../..", "\x00", "a" * 5000, "~", "//x"])), check)
