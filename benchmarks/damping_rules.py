"""Rules that were tried for the damping, each LDS with the damping that the rule finds:

- tenth: 0.1 times the mean eigenvalue,
- evidence: the fixed point ``n damping ||theta||^2 = d`` of the marginal likelihood (MacKay), with
  the effective dimension d at the damping,
- halves: the inverse of one half of the rows tested on the other: the damping with the smallest
  ``x' F_B x / 2 - c' x`` for ``x = (F_A + damping)^{-1} c``, c random sums of factor rows of B,
- halves, any length: the same with x at its best length, the largest ``(c' x)^2 / x' F_B x``,
- gradient: the norm of the gradient that is left over the norm of the parameters,
- time: the damping at which gradient flow leaves that gradient, ``network_damping``,
- auto: the same, and for Kronecker factors matched to the full curvature.
"""

import numpy as np
from sklearn.base import clone

from skinfluence.estimators._damping import full_curvature, network_damping
from skinfluence.rows import DenseRows

RULES = ["tenth", "evidence", "halves", "halves, any length", "gradient", "time", "auto"]
SHOWN = {"500 landmarks", "EK-FAC"}
TRIED = 10.0 ** np.arange(-4, 3.1, 0.5)
N_PROBES = 8


def dampings(fit, X, y):
    """Dampings by all rules.

    Parameters
    ----------
    fit : influence estimator
        Fitted with "auto".
    X, y : ndarray
        Training rows and their targets.
    """
    objective, kind = fit.linearisation_.objective, fit.curvature
    scale = objective.mean_eigenvalue(kind)
    gradient = (objective.weight[None] @ objective.training_gradient_rows())[0]
    gradient = gradient / objective.total_weight + objective.l2_penalty * objective.theta
    size = np.linalg.norm(objective.theta)
    quadratic, any_length = halves(fit, X, y, scale * TRIED)
    found = [
        0.1 * scale,
        evidence(fit.linearisation_, len(X) * size**2, scale),
        quadratic,
        any_length,
        np.linalg.norm(gradient) / size,
        network_damping(objective, kind, full_curvature(objective, "ggn")),
        fit.damping_,
    ]
    return dict(zip(RULES, found, strict=True))


def evidence(linearisation, strength, damping):
    """Fixed point of ``damping = d(damping) / strength``."""
    for _ in range(20):
        damping = linearisation.at_damping(damping).effective_dimension() / strength
    return damping


def halves(fit, X, y, tried):
    """Dampings by both rules of halves."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(X))
    first, second = order[: len(X) // 2], order[len(X) // 2 :]
    half = clone(fit).set_params(damping=float(np.median(tried)))
    half = half.fit(X[first], y[first]).linearisation_
    weight = np.zeros(len(X))
    weight[second] = len(X) / len(second)
    factor_rows = fit.linearisation_.objective.restricted(weight).factor_rows(half.curvature_kind)
    penalty = half.objective.l2_penalty
    probes = rng.choice([-1.0, 1.0], size=(N_PROBES, factor_rows.shape[0])) @ factor_rows
    risks, shares = [], []
    for damping in tried:
        solved = half.at_damping(damping).solve(half.space.project(DenseRows(probes)))
        x = half.space.lift(solved.toarray())
        square = (factor_rows.dotted_by(x) ** 2).sum() + (x**2 * penalty).sum()
        along = (x * probes).sum()
        risks.append(square / 2 - along)
        shares.append(along**2 / square)
    return tried[np.argmin(risks)], tried[np.argmax(shares)]
