"""How far the steps of a study in privacy mode distributed go: sites, hub and auditors compute it alike.

From the study, its recipe and the size of its model alone (aggregation/descent.py, aggregation/localsteps.py).
"""

from __future__ import annotations

from tasks.aggregation.descent import Descent, descent_of
from tasks.privacy.shared import mechanism_of
from tasks.recipes import linear, study_recipe
from tasks.study import Study


def descent_for(study: Study, dimension: int) -> Descent:
    """The steps of every run of a study, for a model of so many numbers.

    Raises:
        PrivacyError: another mode, or numbers that cannot be.
        StudyError: several local steps, and a recipe that does not allow them.
    """
    longest = linear(study_recipe(study)).longest_record() if study.local_steps > 1 else None
    return descent_of(mechanism_of(study, dimension), study.privacy.people or 1, longest, len(study.sums))
