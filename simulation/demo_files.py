"""The demo's study and site files, as a user would write them."""

from __future__ import annotations

from simulation.demo_data import FEATURES, TARGET
from tasks.secagg.messages import LEAST_COHORT, default_threshold

SUMMED = "the hub sees the sum of the hospitals' updates, and never one of them; this is the default"
APART = "two can hide nothing in a sum: each would know the other's part"


def study_yaml(sites: list[str], rounds: int) -> str:
    features = "\n".join(
        f"    {name.replace(' ', '_')}: {{kind: numeric, range: [{low:g}, {high:g}]}}"
        for name, (low, high) in FEATURES.items()
    )
    summed = len(sites) >= LEAST_COHORT
    quorum = default_threshold(len(sites)) if summed else len(sites)
    return f"""\
# Is a tumour malignant? Logistic regression on measurements of cell nuclei, trained by {len(sites)} hospitals together.
name: breast
recipe: tasks.recipes.tabular:LogisticRegression
recipe_settings:
  target: {TARGET}
  positive: malignant
  features:                  # public ranges: scaling by them costs no privacy
{features}
sites: [{", ".join(sites)}]
rounds: {rounds}
quorum: {quorum}
deadline_s: 60
local: {{epochs: 2, batch_size: full, optimizer: sgd, learning_rate: 2.0}}
privacy: {{mode: local, epsilon: 3.0, delta: 1.0e-3, clip_norm: 1.0}}
secure_aggregation: {"on" if summed else "off"}      # {SUMMED if summed else APART}
aggregation: {{rule: mean}}
evaluation: {{holdout_fraction: 0.25}}
seed: 0
"""


def site_yaml(site: str, store_url: str) -> str:
    return f"""\
# What the hospital {site} lets its agent do.
site: {site}
store: {store_url}
sources:
  breast: {{url: "csv:records.csv"}}
limits: {{epsilon: 10.0, delta: 1.0e-3, min_records: 20}}
disclosure:
  records: true       # the hub may know the number of records in a band, such as 50-199
  own_figures: true   # and this hospital's own figures, beside the sum over all hospitals
policy:
  operations: [train, evaluate]   # what the hub may ask; each study must be approved as well
"""
