"""Choose settings of a study on local files, and say what the choice has cost: private tuning.

A secret, random number of runs is tried, each with settings drawn from those that
--over names; the best is shown and the others are not, not even how many there
were. Each run has the study's own epsilon; the choice costs more, and how much is
exact (Papernot and Steinke 2022). It refuses before the first run where choice and
one real run afterwards would pass --limit, or the limits.epsilon of a site's file.

Best is the highest AUROC (else the lowest loss) on held-out records. Those carry
no noise: epsilon is that of people in the training parts. Budgets of real sites
are not touched: enter by hand what you have spent here.

examples:
  fedrounds study tune study.yaml --sites-dir sites --over privacy.clip_norm=0.5,1,2
  fedrounds study tune study.yaml --sites-dir sites --over rounds=10,40 --over local.learning_rate=0.1,1 --tries 8
  fedrounds study tune study.yaml --sites-dir sites --over privacy.clip_norm=1,2 --law poisson --limit 4 --json
"""

from __future__ import annotations

import argparse
import logging
import math
import secrets
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.commands.options import add_json, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sites.settings import Site
    from tasks.contracts import Metrics
    from tasks.privacy.tuning import Tries
    from tasks.study import Study

LAWS = {"geometric": 1.0, "logarithmic": 0.0, "poisson": math.inf}
NOTHING = 1  # exit code


class Price(NamedTuple):
    """Epsilon of the choice, and of the choice and one run of the study afterwards, at the study's delta."""

    choice: float
    with_run: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="study.yaml")
    parser.add_argument(
        "--sites-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with <site>.yaml or <site>/site.yaml files",
    )
    parser.add_argument(
        "--over", action="append", required=True, metavar="KEY=A,B", help="a key of the study, and its values"
    )
    parser.add_argument("--tries", type=float, default=4.0, metavar="N", help="on average (default: 4)")
    parser.add_argument(
        "--law", choices=LAWS, default="geometric", help="of their number (default: geometric)"
    )
    parser.add_argument(
        "--limit", type=float, metavar="EPSILON", help="for choice and one run (default: the sites' limits)"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from flows.studyfile import load_study_file
    from simulation.command import sites_of
    from simulation.settings import grid

    study = load_study_file(args.file)
    sites = sites_of(study, args.sites_dir)
    choices = grid(study, args.over)
    from tasks.privacy.noise import NoiseSource
    from tasks.privacy.tuning import Tries, draw

    tries = Tries(LAWS[args.law], args.tries)
    price = priced([choice.study for choice in choices], sites, tries, args.limit)
    logging.basicConfig(level=logging.CRITICAL, format="%(message)s", stream=sys.stderr)
    print(
        f"{len(choices)} settings; nothing of single runs is shown, nor how many there are", file=sys.stderr
    )
    best, values = None, dict[str, Any]()
    for _ in range(draw(tries, NoiseSource.from_system())):
        tried = secrets.choice(choices)
        found = simulated(tried.study, sites, args.file)
        if found is not None and (best is None or _standing(found) > _standing(best)):
            best, values = found, tried.values
    _show(study, args, values, best, price)
    return NOTHING if best is None else 0


def priced(choices: Sequence[Study], sites: Sequence[Site], tries: Tries, limit: float | None) -> Price:
    """What the best of some runs will cost.

    Raises:
        PrivacyError: more than `limit`, or than a site's file allows, with a real run afterwards.
        StudyError: a study promises nothing.
        RefusedError: records of a site cannot be read.
    """
    import numpy as np

    from simulation.settings import events_of
    from tasks.errors import PrivacyError
    from tasks.privacy.tuning import best_of, curve, epsilon_at

    one = np.max([curve(events_of(study, site)) for study in choices for site in sites], axis=0)
    choice, delta = best_of(one, tries), choices[0].privacy.delta or 0.0
    price = Price(epsilon_at(choice, delta), epsilon_at(choice + one, delta))
    for site in sites:
        limits = site.settings.limits
        most = limits.epsilon if limit is None else limit
        cost = price.with_run if limit is not None else epsilon_at(choice + one, limits.delta)
        if cost > most:
            raise PrivacyError(
                f"choice and one run afterwards would cost epsilon {cost:.3g}, above {most:g}"
                f"{'' if limit is not None else f' in the file of {site.settings.site}'}; a smaller privacy.epsilon or "
                f"fewer --tries make both cheaper. Nothing was tried."
            )
    return price


def simulated(study: Study, sites: Sequence[Site], file: Path) -> Metrics | None:
    """Figures of the last round of one run, its noise from the operating system; None where it came to nothing."""
    from simulation.federation import Federation
    from tasks.commit import load_records
    from tasks.errors import FederationError
    from tasks.starting import keep_start

    with tempfile.TemporaryDirectory(prefix="fedrounds-tune-") as folder:
        federation = Federation(Path(folder), sites, seeded_noise=False)
        keep_start(federation.hub, study, file)
        try:
            return load_records(federation.hub, federation.run(study))[-1].metrics
        except FederationError:  # told apart from a bad score it would say more than the best does
            return None


def _standing(metrics: Metrics) -> tuple[int, float]:
    if metrics.auroc is not None:
        return 2, metrics.auroc
    return (1, -metrics.loss) if metrics.loss is not None else (0, 0.0)


def _show(
    study: Study, args: argparse.Namespace, values: dict[str, Any], best: Metrics | None, price: Price
) -> None:
    privacy, figures = study.privacy, best.model_dump() if best else None
    if args.json:
        print_json(
            {
                "study": study.name,
                "best": values if best else None,
                "metrics": figures,
                "epsilon_run": privacy.epsilon,
                "epsilon_choice": price.choice,
                "epsilon_with_run": price.with_run,
                "delta": privacy.delta,
                "law": args.law,
                "tries": args.tries,
            }
        )
        return
    if figures is None:
        print("nothing came of it: no run was drawn, or none had a result; it has cost the same")
    else:
        print("best:    " + ", ".join(f"{key}={value}" for key, value in values.items()))
        print("         " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items() if v is not None))
    print(f"a run:   epsilon {privacy.epsilon:g} at delta {privacy.delta:g}")
    print(f"choice:  epsilon {price.choice:.3g} (best of about {args.tries:g} runs, {args.law})")
    print(f"choice and one run of the study afterwards: epsilon {price.with_run:.3g}")
