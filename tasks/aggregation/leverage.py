"""How much of the noise of others stands before each site's people, where sums of groups are seen."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from tasks.secagg.groups import Groups


def noise_shares(groups: Groups, missing: int = 0) -> float:
    """On how many shares of noise the people of the least protected site stand, for who sees all sums.

    Each site adds one share to its vector, which goes into all of its groups. The sums A(x + noise) hide a
    change of site i's vector as a Gaussian mechanism does whose noise is 1/sqrt(h) shares long, where h is
    the site's leverage (A^+ A)_ii: 1/n for one sum, 1/size in disjoint groups, more where groups overlap.

    Args:
        groups: the design.
        missing: how many other sites may be lost or tell what they know; the worst ones.

    Returns:
        1/h of the least protected site: what `sites - missing` is for one sum.
    """
    sites = sorted({name for group in groups for name in group.sites})
    matrix = np.array([[float(name in group.sites) for name in sites] for group in groups])
    worst = 0.0
    for gone in combinations(range(len(sites)), missing):
        left = np.delete(matrix, gone, axis=1)
        worst = max(worst, float(np.einsum("ij,ji->i", np.linalg.pinv(left), left).max()))
    return 1 / worst
