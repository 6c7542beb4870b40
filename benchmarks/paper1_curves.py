"""Sketched and exact influence of one model by size, for `benchmarks.paper1`."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh, eigvalsh

from skinfluence import ExactInfluence, SketchedInfluence
from skinfluence.metrics import linear_datamodeling_score
from skinfluence.sketching import SJLTSketch, effective_dimension

# Ridges, over the largest eigenvalue of F.
GRID = np.geomspace(1e-6, 1, 13)
N_PROBES = 300


@dataclass
class Answers:
    """Influences (q, n) without their sign, and phi of probes (training rows) and of queries."""

    scores: np.ndarray
    own: np.ndarray
    queries: np.ndarray


@dataclass
class Curve:
    """What is measured of one kind of curvature and sketch, by size.

    ``lds`` (n_sizes, n_queries) is over ``best`` (n_queries,), that without a sketch; ``own``
    and ``pairs`` are 95th percentiles of |phi~/phi - 1| and of the error of pairs.
    """

    model: str
    kind: str
    n_refits: int
    ridge: float
    top: float
    spectrum: np.ndarray
    rank: int
    best: np.ndarray
    d: float
    sizes: np.ndarray
    lds: np.ndarray
    own: np.ndarray
    pairs: np.ndarray
    n_params: int


# ---------------------------------------------------------------------------
# Influence, in the space of the parameters (or of a sketch) and in that of the rows
# ---------------------------------------------------------------------------


def by_moment(F, Z, Zq, ridge, probes):
    """Answers of ``F + diag(ridge)`` for training rows Z and queries Zq, both (., m)."""
    factor = cho_factor(F + np.diag(np.broadcast_to(ridge, len(F))), overwrite_a=True)
    solved = cho_solve(factor, np.concatenate([Zq, Z[probes]]).T).T
    solved_queries, solved_probes = solved[: len(Zq)], solved[len(Zq) :]
    own = np.einsum("nm,nm->n", solved_probes, Z[probes])
    return Answers(solved_queries @ Z.T, own, np.einsum("qm,qm->q", solved_queries, Zq))


def by_gram(K, Kq, kq, ridge, probes):
    """Answers of the empirical Fisher matrix from inner products.

    ``(Z'Z / n + ridge)^{-1} Z' = Z' (K / n + ridge)^{-1}`` with ``K = Z Z'``; ``Kq = Zq Z'``, and
    ``kq`` has the squared norms of the queries.
    """
    n = len(K)
    factor = cho_factor(K / n + ridge * np.eye(n), overwrite_a=True)
    scores = cho_solve(factor, Kq.T).T
    own = np.einsum("pn,np->p", K[probes], cho_solve(factor, np.eye(n)[:, probes]))
    return Answers(scores, own, (kq - np.einsum("qn,qn->q", scores, Kq) / n) / ridge)


class Fisher:
    """The empirical Fisher matrix, of rows that are known by their inner products."""

    kind = "empirical Fisher, sjlt"
    step = 1

    def __init__(self, model):
        self.model = model
        self.rows, self.queries = model.gradients()
        self.n, self.n_columns = self.rows.shape
        self.K, self.Kq = self.rows @ self.rows.T, self.queries @ self.rows.T
        self.kq = np.einsum("qp,qp->q", self.queries, self.queries)
        self.values, self.vectors = eigh(self.K / self.n)

    def best_ridge(self, score):
        """The ridge of the grid with the best score, which needs one eigenbasis only."""
        turned = self.Kq @ self.vectors
        ridges = GRID * self.values[-1]
        found = [score((turned / (self.values + r)) @ self.vectors.T).mean() for r in ridges]
        return ridges[int(np.argmax(found))]

    def dimension(self, ridge):
        """``tr(F (F + ridge)^{-1})``."""
        return float(effective_dimension(np.clip(self.values, 0, None), ridge))

    def exact(self, ridge, probes):
        return by_gram(self.K, self.Kq, self.kq, ridge, probes)

    def sketched(self, size, seed, ridge, probes):
        sketch = SJLTSketch(self.n_columns, size, seed)
        Z, Zq = self.rows @ sketch, self.queries @ sketch
        if size < self.n:
            return by_moment(Z.T @ Z / self.n, Z, Zq, ridge, probes)
        return by_gram(Z @ Z.T, Zq @ Z.T, np.einsum("qm,qm->q", Zq, Zq), ridge, probes)


class Hessian:
    """The Hessian of the loss, with the ridge where the model has its penalty.

    The intercepts have none and stay unsketched.
    """

    kind = "Hessian, sjlt"
    step = 1

    def __init__(self, model):
        rows, queries = model.gradients()
        # Features that are always 0 have no gradient; without them matrices are smaller.
        seen = rows.any(axis=0) | queries.any(axis=0)
        penalty = model.objective.l2_penalty
        self.rows, self.queries = rows[:, seen], queries[:, seen]
        self.F = model.hessian()[np.ix_(seen, seen)]
        self.values = eigvalsh(self.F)
        self.penalty = penalty.max()
        self.n_weights = np.count_nonzero(penalty[seen])

    def best_ridge(self, score):
        """The best of some multiples of the model's own penalty."""
        ridges = self.penalty * np.array([0.3, 1, 3, 10])
        found = [score(self.exact(ridge, slice(0)).scores).mean() for ridge in ridges]
        return ridges[int(np.argmax(found))]

    def dimension(self, ridge):
        """``tr(F H^{-1})``."""
        factor = cho_factor(self.F + np.diag(self._ridge(ridge, self.n_weights)))
        return float(np.trace(cho_solve(factor, self.F)))

    def exact(self, ridge, probes):
        ridge = self._ridge(ridge, self.n_weights)
        return by_moment(self.F, self.rows, self.queries, ridge, probes)

    def sketched(self, size, seed, ridge, probes):
        sketch = SJLTSketch(self.n_weights, size, seed)
        n = self.n_weights

        def project(rows):
            return np.hstack([np.ascontiguousarray(rows[:, :n]) @ sketch, rows[:, n:]])

        F = project(project(self.F).T)
        ridge = self._ridge(ridge, size)
        return by_moment(F, project(self.rows), project(self.queries), ridge, probes)

    def _ridge(self, ridge, n_weights):
        n_intercepts = len(self.F) - self.n_weights
        return np.repeat([ridge, 0.0], [n_weights, n_intercepts])


class Basis:
    """`SketchedInfluence` as it is, a basis for the features, at the model's own penalty."""

    def __init__(self, model, hessian, *, tail):
        self.kind = f"Hessian, basis {'with' if tail else 'without'} tail"
        self.model, self.tail = model, tail
        self.values = hessian.values
        # A number for a feature is one for each output.
        self.step = model.objective.training_gradient_rows().layer_shape[0]
        self.best_ridge = lambda score: hessian.penalty
        self.dimension = hessian.dimension

    def exact(self, ridge, probes):
        return self._answers(ExactInfluence(self.model.model), probes)

    def sketched(self, size, seed, ridge, probes):
        estimator = SketchedInfluence(
            self.model.model,
            sketch="nystrom",
            sketch_size=size,
            tail=self.tail,
            random_state=seed,
        )
        return self._answers(estimator, probes)

    def _answers(self, estimator, probes):
        fitted = estimator.fit(*self.model.train)
        X, y = self.model.queries
        queries = np.square(fitted.transform(X, y)).sum(axis=1)
        return Answers(-fitted.influence(X, y), fitted.self_influence()[probes], queries)


# ---------------------------------------------------------------------------
# Measures
# ---------------------------------------------------------------------------


def measure(name, model, problem, multiples, seeds):
    """The curve of one problem."""

    def score(scores):
        return linear_datamodeling_score(-scores, model.subsets, model.losses)

    n = len(model.train[0])
    probes = np.random.default_rng(0).choice(n, N_PROBES, replace=False)
    ridge = problem.best_ridge(score)
    exact = problem.exact(ridge, probes)
    values = np.clip(problem.values, 0, None)[::-1]
    d = problem.dimension(ridge)
    sizes = np.unique(np.maximum(1, np.round(multiples * d / problem.step)).astype(int))
    sizes = problem.step * sizes[problem.step * sizes < model.objective.n_params]
    scale = np.sqrt(np.outer(exact.queries, exact.own))
    lds, own, pairs = [], [], []
    for size in sizes:
        runs = [problem.sketched(size, seed, ridge, probes) for seed in seeds]
        lds.append(np.mean([score(run.scores) for run in runs], axis=0))
        own.append(np.mean([np.quantile(np.abs(r.own / exact.own - 1), 0.95) for r in runs]))
        gaps = [np.abs(run.scores - exact.scores)[:, probes] / scale for run in runs]
        pairs.append(np.mean([np.quantile(gap, 0.95) for gap in gaps]))
        print(f"{name}, {problem.kind}, {size}: {lds[-1].mean():.3f}", flush=True)
    return Curve(
        model=name,
        kind=problem.kind,
        n_refits=len(model.subsets),
        ridge=ridge,
        top=values[0],
        spectrum=values[values > 1e-12 * values[0]],
        rank=int((values > 1e-10 * values[0]).sum()),
        best=score(exact.scores),
        d=d,
        sizes=sizes,
        lds=np.array(lds),
        own=np.array(own),
        pairs=np.array(pairs),
        n_params=model.objective.n_params,
    )
