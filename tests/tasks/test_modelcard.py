"""What strangers read in MLflow."""

from __future__ import annotations

from tasks import modelcard
from tasks.codes import Code
from tasks.contracts import Metrics
from tasks.records import SiteRound
from tests.rounds import SITES, a_manifest, a_record, a_study


def test_a_site_that_left_has_still_paid():
    """The later model holds its records too: the largest epsilon must not fall when a site drops out."""
    records = [a_record(4), a_record(5, refusing={"west": Code.BUDGET_EXHAUSTED})]

    spent = modelcard.epsilons(records)

    assert spent["west"] == modelcard.epsilons(records[:1])["west"]
    assert set(spent) == set(SITES)


def test_keys_of_a_round_are_few_and_fixed():
    """MLflow's cost and its charts grow with the number of keys."""
    shown = modelcard.round_metrics(a_record(1), {"east": 0.5, "west": 1.5})

    assert list(shown) == [
        *(
            "global/auroc",
            "global/accuracy",
            "global/loss",
            "fair/auroc_min",
            "dp/epsilon_max",
            "dp/epsilon_mean",
        ),
        *("round/sites", "round/missing", "round/seconds", "round/bytes_up"),
    ]
    assert (shown["dp/epsilon_max"], shown["dp/epsilon_mean"], shown["fair/auroc_min"]) == (1.5, 1.0, 0.6)


def test_what_is_undefined_is_left_out():
    """A made-up zero in a chart would be a lie: one class only has no AUROC, no noise has no epsilon."""
    record = a_record(1, metrics=Metrics(), sites={"east": SiteRound(state="missing", code=Code.NO_ANSWER)})

    assert sorted(modelcard.round_metrics(record, {})) == [
        "round/bytes_up",
        "round/missing",
        "round/seconds",
        "round/sites",
    ]
    assert modelcard.site_metrics(record.sites["east"]) == {}


def test_a_round_card_names_each_site_its_epsilon_and_why_it_is_missing():
    """A reader of the registry must not need the hub to learn who took part and what it cost."""
    record = a_record(2, refusing={"west": Code.BUDGET_EXHAUSTED})

    card = modelcard.round_card(a_study(), record, modelcard.epsilons([record]))

    rows = [line.replace("&ensp;", "") for line in card.splitlines() if line.startswith("| ")]
    assert rows[1] == "| east | delivered | 1.000 (3) | 0.600 | 0.700 | 0.500 |"
    assert rows[4] == "| west | refused: budget_exhausted | none reported | – | – | – |"


def test_cards_fit_where_mlflow_keeps_them():
    """PostgreSQL refuses a description above 5000 characters, and a study may have 200 sites."""
    names = [f"{'institution-with-a-long-name-':-<58}{i:03d}" for i in range(200)]
    site = SiteRound(
        state="refused", code=Code.UPDATE_NOT_FINITE, metrics=Metrics(auroc=1, accuracy=1, loss=9999)
    )
    study = a_study(sites=names)
    record = a_record(1, sites=dict.fromkeys(names, site))

    cards = [
        modelcard.study_card(study, names),
        modelcard.round_card(study, record, dict.fromkeys(names, 99.9)),
        modelcard.run_card(study, a_manifest(study), record),
    ]

    assert max(map(len, cards)) < 5000


def test_a_study_without_privacy_says_so():
    """Silence would read as a guarantee."""
    study = a_study(privacy={"mode": "none"})

    assert "no differential privacy" in modelcard.study_card(study, ["dose"])
    assert "no guarantee" in modelcard.round_card(study, a_record(1), {})
