"""Tabular recipes: public rules make numbers, numpy and torch say the same."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import RecordError, StudyError
from tasks.recipes import linear
from tasks.recipes.base import Linear, Recipe
from tasks.recipes.tabular import MLP, LogisticRegression


def settings(**changes: Any) -> dict[str, Any]:
    features = {
        "age": {"kind": "numeric", "range": [20, 80]},
        "cp": {"kind": "category", "values": [1, 2, 3]},
    }
    return {"target": "num", "positive": "> 0", "features": features} | changes


def column(*values: Any) -> np.ndarray:
    return np.array(values, dtype=object)


def encoded(feature: dict[str, Any], *values: Any) -> list[list[float]]:
    recipe = LogisticRegression(settings(features={"v": feature}))
    return recipe.encode_features({"v": column(*values)}).round(6).tolist()


def labels(positive: Any, *values: Any) -> tuple[list[float], list[bool]]:
    recipe = LogisticRegression(
        settings(positive=positive, features={"v": {"kind": "numeric", "range": [0, 1]}})
    )
    arrays = recipe.encode({"v": column(*["0"] * len(values)), "num": column(*values)})
    return arrays.y.tolist(), arrays.kept.tolist()


@pytest.mark.parametrize("recipe", [LogisticRegression, MLP])
def test_they_are_recipes(recipe):
    """The protocol is what hub and sites call."""
    assert isinstance(recipe(settings()), Recipe)


def test_numbers_are_scaled_by_the_public_range_and_clipped():
    """Whatever the records hold: scaling by them would leak, and one record far out would stretch all others."""
    feature = {"kind": "numeric", "range": [20, 80]}

    assert encoded(feature, "20", "50.0", " 80 ", "1e3", "-7") == [[-1], [0], [1], [1], [-1]]


def test_what_is_typical_fills_the_unit_and_the_range_still_bounds():
    """Cholesterol may be 100 to 600 and hardly is: scaled by its range alone its weight would creep."""
    feature = {"kind": "numeric", "range": [100, 600], "typical": [180, 280]}

    assert encoded(feature, "180", "280", "600", "9999", "0", None) == [
        [-1], [1], [pytest.approx(7.4)], [pytest.approx(7.4)], [pytest.approx(-2.6)], [0],
    ]  # fmt: skip


@pytest.mark.parametrize("typical", [[90, 200], [200, 200], [200, 180], [350, 351]])
def test_what_cannot_be_typical_is_refused(typical):
    """Outside of the range, empty, or so narrow that one odd record would drown all others."""
    with pytest.raises(StudyError, match="typical"):
        LogisticRegression(
            settings(features={"v": {"kind": "numeric", "range": [100, 600], "typical": typical}})
        )


def test_a_missing_number_is_the_middle_or_what_the_study_says():
    """The middle of the public range is the value that says least."""
    plain = {"kind": "numeric", "range": [0, 100]}

    assert encoded(plain, None, "100") == [[0], [1]]
    assert encoded(plain | {"missing": 25}, None) == [[-0.5]]
    assert encoded(plain | {"missing_indicator": True}, None, "100") == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    "values", [("1", "3"), ("1.0", "3.0"), (1, 3), (1.0, 3.0), (np.int64(1), np.float32(3))]
)
def test_levels_are_the_same_however_they_are_written(values):
    """One hospital writes 1, the next 1.0, and a DataFrame holds a number."""
    assert encoded({"kind": "category", "values": [1, 2, 3]}, *values) == [[1, 0, 0], [0, 0, 1]]


def test_truth_values_are_levels():
    """However a file spells them."""
    feature = {"kind": "category", "values": [False, True]}

    assert encoded(feature, "true", "TRUE", True, "1", "False", 0) == [[0, 1]] * 4 + [[1, 0]] * 2


def test_an_unlisted_level_gives_only_zeros():
    """A new code at one hospital must not stop the study; it just says nothing."""
    assert encoded({"kind": "category", "values": ["a", "b"]}, "c", "nan", "b") == [[0, 0], [0, 0], [0, 1]]


def test_a_missing_level_is_none_or_what_the_study_says():
    """Only zeros, or a level, and an indicator beside it."""
    plain = {"kind": "category", "values": ["a", "b"]}

    assert encoded(plain, None, "") == [[0, 0], [0, 0]]
    assert encoded(plain | {"missing": "b", "missing_indicator": True}, None, "a") == [[0, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([1.5, np.nan]).to_numpy(),
        pd.Series([1.5, None], dtype="Float64").to_numpy(dtype=object),
        pd.Series(["1.5", pd.NA]).to_numpy(dtype=object),
        pd.Series(["1.5", None], dtype=object).to_numpy(),
        pd.Series(["1.5", ""]).to_numpy(dtype=object),
        np.array(["1.5", ""]),
    ],
)
def test_a_dataframe_says_the_same_as_a_file(values):
    """The registered model predicts from DataFrames, whose gaps have many forms."""
    recipe = LogisticRegression(
        settings(features={"v": {"kind": "numeric", "range": [0, 2], "missing_indicator": True}})
    )

    assert recipe.encode_features({"v": values}).tolist() == [[0.5, 0], [0, 1]]


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6), st.integers(-100, 100)), min_size=1, max_size=3000)
)
def test_many_and_few_distinct_values_are_read_alike(values):
    """Two ways of reading, chosen by speed; seen against float() itself."""
    recipe = LogisticRegression(settings(features={"v": {"kind": "numeric", "range": [-1e6, 1e6]}}))
    texts = [None if v is None else repr(v) for v in values]

    found = recipe.encode_features({"v": column(*texts)})[:, 0]

    np.testing.assert_allclose(
        found, [0 if v is None else float(v) / 1e6 for v in values], atol=1e-9, rtol=1e-6
    )


@pytest.mark.parametrize("bad", ["secret", "nan", "inf", "1,5", float("inf"), [1], pd.Timestamp(0)])
@pytest.mark.parametrize("others", [[], [str(i / 7) for i in range(50)]], ids=["few", "many"])
def test_an_unreadable_number_names_the_column_and_never_the_value(bad, others):
    """The text may be read by people who may not read records."""
    table = {"age": column(*others, "1", "1"), "cp": column(*others, "1", "1")}
    table["age"][-1] = bad

    with pytest.raises(RecordError) as caught:
        LogisticRegression(settings()).encode_features(table)

    assert "'age'" in str(caught.value)
    assert "secret" not in str(caught.value) and caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_absent_columns_are_all_named():
    """The target too, where it is needed."""
    recipe = LogisticRegression(settings())

    with pytest.raises(RecordError) as caught:
        recipe.encode({"cp": column("1")})
    assert caught.value.missing == ("age", "num")
    assert recipe.encode_features({"cp": column("1"), "age": column("50")}).shape == (1, 4)


@pytest.mark.parametrize(
    ("positive", "y"),
    [("> 0", [0, 1, 1]), (">= 2", [0, 0, 1]), ("<1", [1, 0, 0]), ("== 1", [0, 1, 0]), ("!= 1", [1, 0, 1]), (1, [0, 1, 0]), ("2", [0, 0, 1]), ([1, "2"], [0, 1, 1])],
)  # fmt: skip
def test_what_is_positive(positive, y):
    """A comparison, a value, or a list of values."""
    assert labels(positive, "0", "1.0", "2") == (y, [True] * 3)


def test_records_without_a_target_are_left_out():
    """They teach nothing; `kept` says which raw records the rows of x are."""
    assert labels("> 0", "1", None, "0") == ([1, 0], [True, False, True])
    assert labels("yes", None, "yes", "no") == ([1, 0], [False, True, True])


def test_no_records_are_a_table_too():
    """Counting comes before complaining."""
    arrays = LogisticRegression(settings()).encode({"age": column(), "cp": column(), "num": column()})

    assert (arrays.x.shape, arrays.y.shape, arrays.kept.shape) == ((0, 4), (0,), (0,))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "age"}, "target 'age' is among the features"),
        ({"positive": "> many"}, "expected a number after >"),
        ({"positive": []}, "expected a comparison"),
        ({"features": {}}, "features"),
        ({"features": {"a": {"kind": "numeric", "range": [2, 1]}}}, "expected the lower end before the higher one"),
        ({"features": {"a": {"kind": "numeric", "range": [0, 1], "missing": 2}}}, "expected a value inside the range"),
        ({"features": {"a": {"kind": "numeric", "range": ["0", 1]}}}, "features.a.numeric.range.0"),
        ({"features": {"a": {"kind": "category", "values": [1, "1.0"]}}}, "a level twice"),
        ({"features": {"a": {"kind": "category", "values": [1], "missing": 2}}}, "expected one of values"),
        ({"features": {"a": {"kind": "category", "values": list(range(9999))}, "b": {"kind": "category", "values": [1, 2]}}}, "encode to 10001 columns, expected at most 10000"),
        ({"feature": {}}, "feature"),
        ({"seed": {1}}, "expected plain values"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(changes, said):
    """Before any byte moves."""
    with pytest.raises(StudyError) as caught:
        LogisticRegression(settings(**changes))

    assert said in str(caught.value)


@pytest.mark.parametrize(
    "recipe",
    [
        LogisticRegression(settings()),
        MLP(settings(hidden=[5, 3])),
        MLP(settings(hidden=[4], activation="relu")),
    ],
)
def test_torch_and_numpy_agree(recipe):
    """Sites train with torch, the hub predicts with numpy: names, shapes, scores and loss are the same."""
    import torch

    generator = np.random.default_rng(0)
    start = recipe.initial_parameters(1)
    parameters = {k: generator.normal(size=v.shape).astype(np.float32) for k, v in start.items()}
    x = generator.uniform(-1, 1, (20, 4)).astype(np.float32)
    y = torch.tensor(generator.integers(0, 2, 20), dtype=torch.float32)
    module = recipe.module()
    assert {k: tuple(v.shape) for k, v in module.named_parameters()} == {k: v.shape for k, v in start.items()}
    module.load_state_dict({k: torch.from_numpy(v) for k, v in parameters.items()})

    outputs = module(torch.from_numpy(x))

    scores = recipe.scores(parameters, x)
    np.testing.assert_allclose(torch.sigmoid(outputs)[:, 0].detach().numpy(), scores, atol=1e-6)
    loss = recipe.loss(outputs, y).detach().numpy()
    np.testing.assert_allclose(loss, -np.log(np.where(y.numpy() > 0, scores, 1 - scores)), atol=1e-5)


def test_initial_parameters_depend_on_the_seed_alone():
    """Hub and simulation begin at the same point."""
    first, again, other = (MLP(settings()).initial_parameters(seed) for seed in (1, 1, 2))

    assert all((first[k] == again[k]).all() for k in first)
    assert not all((first[k] == other[k]).all() for k in first)
    assert all(not v.any() for v in LogisticRegression(settings()).initial_parameters(1).values())


def test_scores_of_huge_logits_do_not_overflow():
    """A diverged model is bad, not a crash."""
    recipe = LogisticRegression(settings())
    parameters = {"weight": np.full((1, 4), 1e30, np.float32), "bias": np.zeros(1, np.float32)}

    assert recipe.scores(parameters, np.array([[1, 0, 0, 0], [-1, 0, 0, 0]], np.float32)).tolist() == [
        1.0,
        0.0,
    ]


def test_the_example_is_synthetic_and_can_be_encoded():
    """It becomes the public signature of the registered model; numbers are floats, which can be NaN."""
    recipe = LogisticRegression(settings())

    assert recipe.example() == {"age": [50.0], "cp": [1.0]}
    assert recipe.encode_features({k: np.array(v) for k, v in recipe.example().items()}).tolist() == [
        [0, 1, 0, 0]
    ]


def test_predicting_needs_no_torch():
    """The hub has none."""
    code = (
        "import sys, numpy as np; from tasks.recipes import load_recipe;"
        f"r = load_recipe('tasks.recipes.tabular:LogisticRegression', {settings()!r});"
        "r.scores(r.initial_parameters(0), r.encode_features({k: np.array(v) for k, v in r.example().items()}));"
        "print(sorted({'torch', 'pandas', 'opacus'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "[]"


def test_each_site_may_have_an_intercept_of_its_own():
    """One column each, heavier than others; a site that is not listed has the common intercept alone."""
    terms = settings()
    terms["features"]["hospital"] = {"kind": "site", "values": ["a", "b"], "weight": 2.0}
    recipe = LogisticRegression(terms)
    column = np.array(["b", "a", "c"], dtype=object)

    x = recipe.encode_features({"age": np.full(3, "50"), "cp": np.full(3, "1"), "hospital": column})

    assert recipe.site_column == "hospital" and LogisticRegression(settings()).site_column is None
    assert x[:, -2:].tolist() == [[0, 2], [2, 0], [0, 0]]


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        ({"kind": "numeric", "range": [0, 10]}, ["0", "10", "99", "-99", None]),
        ({"kind": "numeric", "range": [0, 10], "missing": 1, "missing_indicator": True}, ["0", "10", None]),
        ({"kind": "numeric", "range": [0, 10], "missing_indicator": True}, ["10", None]),
        ({"kind": "numeric", "range": [0, 10], "typical": [2, 4]}, ["0", "10", "99", "3"]),
        (
            {"kind": "numeric", "range": [0, 9], "typical": [7, 9], "missing": 1, "missing_indicator": True},
            ["0", "9", None],
        ),
        ({"kind": "category", "values": ["a", "b"]}, ["a", "b", "z", None]),
        ({"kind": "category", "values": ["a", "b"], "missing_indicator": True}, ["a", None]),
        ({"kind": "category", "values": ["a"], "missing": "a", "missing_indicator": True}, ["a", None]),
        ({"kind": "site", "values": ["a", "b"], "weight": 3.7}, ["a", "b", "z"]),
    ],
)
def test_the_longest_record_is_as_long_as_one_can_be(feature, values):
    """Local steps and their noise rest on it: no value makes a longer one, and one makes one as long."""
    recipe = LogisticRegression(settings(features={"v": feature}))
    lengths = recipe.lengths(recipe.encode_features({"v": column(*values)}))

    assert lengths.max() == pytest.approx(recipe.longest_record(), rel=1e-6)
    assert isinstance(recipe, Linear) and not isinstance(MLP(settings()), Linear)


def test_lengths_of_features_add_up():
    """Squares of each, and the intercept's 1."""
    assert LogisticRegression(settings()).longest_record() == pytest.approx(3**0.5)


def test_a_logistic_regressions_loss_is_as_flat_as_it_promises():
    """Its gradient is a growing function of the score times the record, no steeper than a quarter."""
    import torch

    score = torch.linspace(-30, 30, 2001, dtype=torch.float64, requires_grad=True)
    for label in (0.0, 1.0):
        loss = LogisticRegression(settings()).loss(score[:, None], torch.full_like(score, label))
        slope = torch.autograd.grad(loss.sum(), score)[0].diff() / (60 / 2000)
        assert bool((slope >= 0).all()) and 0.24 < float(slope.max()) <= 0.25


def test_whoever_changes_the_loss_promises_anew_how_flat_it_is():
    """A heavier loss for the ill moves a record's steps by twice what the noise is made for."""

    class Weighted(LogisticRegression):
        def loss(self, outputs, targets):
            return super().loss(outputs, targets) * (1 + 29 * targets)

    class Renamed(LogisticRegression):
        pass

    assert linear(Renamed(settings())).longest_record() > 1
    with pytest.raises(StudyError, match="Weighted does not say that it is one"):
        linear(Weighted(settings()))
