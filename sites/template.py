"""The site.yaml that enrolment writes: everything is denied until a person at the site allows it."""

from __future__ import annotations

import json

from tasks.membership import Kit

CA_FILE = "store-ca.pem"


def site_yaml(kit: Kit) -> str:
    """A file that parses and allows nothing: no source, and a budget that pays for no round."""
    ca = (
        f"store_ca: {CA_FILE}            # the store's private certificate authority, from the kit\n"
        if kit.store_ca
        else ""
    )
    if kit.uploads == "presigned":
        ca += "uploads: presigned       # the credentials only read; tickets bring addresses to write to\n"
    return f"""\
# What {kit.site} lets its agent do. Written once by `fedrounds-site enrol`, and yours from now on.
# Nothing is allowed yet. After each change: fedrounds-site doctor --config site.yaml
site: {kit.site}
store: {json.dumps(kit.store)}      # the only place the agent talks to
{ca}
# Which records belong to which study. Without an entry here the study gets unknown_study.
#   heart: {{url: "csv:/srv/data/heart.csv", person: patient_id}}
sources: {{}}

# No hub can raise these. epsilon: what one data set may spend over all studies, for ever; 0.000001 pays for nothing.
limits:
  epsilon: 0.000001
  delta: 0.00001
  min_records: 100         # with fewer usable records nothing is trained

# What a hub may ask. Remove a word to refuse it altogether.
policy:
  operations: [train, evaluate]
  # hours: {{from: "20:00", to: "06:00", timezone: Europe/Paris}}
  # epsilon_per_round: 0.5
  # hold_for_human: true     # answers wait for: fedrounds-site release

# How exact the figures are that leave this site.
disclosure:
  min_held_out: 50         # with fewer held-out records no metric leaves
  # own_figures: true      # this site's own figures, beside the sum over all sites (secure aggregation)
  # votes: true            # in studies with validation: bits on groups that the hub sees, see docs/robustness.md
"""
