"""Influence by Kronecker-factored curvature."""

from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_random_state

from skinfluence._utils.sklearn_private import Interval, RealNotInt, StrOptions
from skinfluence.curvature import Space
from skinfluence.curvature.kronecker import (
    KroneckerCurvature,
    LayerSpace,
    describe,
    draw_layer_sketch,
    moments,
    sketch_sizes,
)
from skinfluence.estimators._base import REFINEMENT, STORAGE, BaseInfluence
from skinfluence.estimators._damping import matched_damping

# Numbers of the largest parameter that has a dense block: a matrix of 128 MiB.
MAX_DENSE_BLOCK = 4096


class KFACInfluence(BaseInfluence):
    r"""Influence functions with a Kronecker-factored curvature of each layer.

    The curvature of a linear layer with inputs ``u`` (a 1 for the bias included) and output
    gradients ``r`` is approximated by :math:`A \otimes E` with :math:`A = \mathbb{E}[u u']` and
    :math:`E = \mathbb{E}[r r']`, and by 0 between layers. Parameters of other layers (norms)
    keep blocks of their own. The approximation is exact for deep linear networks with squared
    loss, up to the blocks between layers.

    Parameters
    ----------
    estimator : estimator
        The model: a linear model or a network that the package knows, alone or inside a Pipeline
        or a search, or one linear model for each output or class (``OneVsRestClassifier`` and the
        like). A clone is fitted; a ``FrozenEstimator`` is taken as it is. The transformer of a
        ``TransformedTargetRegressor`` stays fixed, and losses are in the unit of the transformed
        targets; the base estimators of a stack must be frozen, and stay fixed too.
    eigenvalue_correction : bool, default=True
        Whether the second moments of the gradients in the eigenbasis of :math:`A \otimes E`
        replace its eigenvalues (EK-FAC).
    fisher : {"true", "sampled", "empirical"}, default="true"
        "true": the exact expectation over the model's own outputs, which is the generalised
        Gauss-Newton matrix. "sampled": one random row for each sample with that expectation; of
        a cross-entropy of positions, the gradient for labels that are drawn from the model.
        "empirical": the gradients of the given targets.
    shared : {"expand", "reduce"}, default="expand"
        Layers whose weights are shared over positions (convolutions, sequences). "expand":
        A is the mean over positions of ``u u'``, E the sum over positions of ``r r'``.
        "reduce": both are of ``u`` averaged and ``r`` summed over positions. Of an embedding, A
        is diagonal either way: the frequencies of the tokens.
    unfactored : {"dense", "diagonal"}, default="dense"
        Parameters that are no linear layer (norms, recurrent weights, a weight that is used in
        several ways). "dense": one block of curvature for each, refused above 4,096 numbers,
        whose block would take 128 MiB. "diagonal": its diagonal alone.
    sketch_size : {"auto"}, float, int or (int, int), default=None
        Sizes of factorised sketches :math:`P_A \otimes P_E` of the layers. A float from 0 to 1
        is the share of all directions of the factors, :math:`m_A + m_E` added over the layers,
        that is kept: those with most of the effective dimension. An int is the number of rows
        :math:`m_A m_E` for each layer, split like the effective dimensions of its factors; a
        pair is ``(m_A, m_E)``; "auto" takes the sizes from which the uniform error of the
        sketch, on the Kronecker product of a layer, is at most ``eps``. By default nothing is
        sketched.
    sketch : {"nystrom", "gaussian"}, default="nystrom"
        "nystrom": the leading eigenvectors of A and of E, for "auto" all those with an
        eigenvalue x in :math:`A \otimes E` of which :math:`x / (x + \lambda)`, their error if
        left out, exceeds ``eps``. "gaussian": random, for "auto" as large as
        :func:`~skinfluence.sketching.influence_min_dim` says of each factor.
    refine : {"auto"} or int, default=0
        Steps of conjugate gradients with the full curvature, preconditioned by the approximate
        one, after the approximate solution; each is one product of the full curvature with
        every query. "auto": until the ten largest scores of every query have error bounds of
        at most ``eps`` times their size. Refined are `influence`, `most_influential`,
        `parameter_influence`, `score` and the effects of leaving rows out; `self_influence`,
        `transform`, `memorization` and the leverages keep the approximation.
    eps : float, default=0.1
        Largest error, in (0, 1): of sizes that are found from the data, and of the error bound,
        relative to the score, at which ``refine="auto"`` stops.
    delta : float, default=0.05
        Share of the seeds of a random sketch that may exceed ``eps``, in (0, 1).
    damping : {"auto"} or float, default="auto"
        Added to the eigenvalues of the curvature. "auto" is 0 for linear models: where the
        data cannot tell some columns apart, a pseudo-inverse is taken, with a warning that names
        the columns. For networks "auto" is found from the gradient that training has left, a short
        training asking for much damping; Kronecker factors take the damping at which they agree
        best with the full curvature at its own, and heads 0.1 times the mean eigenvalue of their
        curvature. ``damping_`` reports the damping that was used.
    storage : str or path-like, default=None
        Folder that keeps the sketched or factored training rows on disk, one file for each
        ``batch_size`` of them. Scores then read them there, without going through the model, and
        a fit that was interrupted goes on with the parts that are missing. A folder that holds
        the rows of other data, another model, sketch or version is refused. Pickles hold its
        path. None makes or holds the rows in memory.
    batch_size : int, default=None
        Rows in a batch; by default as many as scikit-learn's ``working_memory`` allows.
    n_jobs : int, default=None
        Threads over batches of training rows.
    random_state : int, RandomState or None, default=None
        Draws the sampled Fisher and random sketches.
    scoring : callable, default=None
        Measure of agreement with refits, called with a fitted influence estimator and queries,
        higher is better. None means an :class:`~skinfluence.metrics.InfluenceScorer` with its
        default parameters, the linear datamodeling score.
    verbose : int, default=0
        Above 0, progress is shown, by a bar where tqdm is installed, else by lines; the lines
        also go to the logger "skinfluence".

    Attributes
    ----------
    estimator_ : estimator
        The fitted model.
    layers_ : list of Bunch
        For every block ``name``, ``shape`` (outputs, inputs with the 1 of the bias),
        ``sketch_shape``, and the effective dimensions at the ridge :math:`\lambda`, which is
        `damping_` plus the mean of the model's own penalty: of A at
        :math:`\lambda / \|E\|_2` (``inputs_dimension``), of E at :math:`\lambda / \|A\|_2`
        (``outputs_dimension``), their ``product``, and the one of :math:`A \otimes E`
        (``effective_dimension``), which is at most ``bound``, the product times
        :math:`1 + \lambda / (\|A\|_2 \|E\|_2)`.
    damping_ : float
        The damping that was used.
    effective_dimension_ : float
        ``tr(F H^{-1})`` of the approximation.
    stationarity_ : float
        Norm of the gradient of the objective at the fitted parameters, over the sum of the
        norms of its terms.
    n_stored_ : float
        Numbers that stand for each training row when scores are computed, a mean over the rows
        (of sparse features, stored entries). Factored rows keep their two factors.
    n_samples_, n_params_, n_components_ : int
        Training rows, parameters of the model, columns of the embedding.
    classes_ : ndarray of shape (n_classes,)
        Labels, if the model is a classifier.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if they are strings.

    See Also
    --------
    ExactInfluence : The same with the full curvature.

    Notes
    -----
    Positive influence means that more weight on a training row raises the loss of a query.
    Refined scores (``refine``) are those of the full curvature, and "auto" then takes its damping.
    The model's own penalty enters by its diagonal in the eigenbasis. Kronecker factors are no
    sum over training rows, so a leave-one-out effect is a step with the curvature of all rows.

    References
    ----------
    .. [1] Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored
       Approximate Curvature", ICML 2015.
    .. [2] George et al., "Fast Approximate Natural Gradient Descent in a Kronecker-factored
       Eigenbasis", NeurIPS 2018.
    .. [3] Eschenhagen et al., "Kronecker-Factored Approximate Curvature for Modern Neural
       Network Architectures", NeurIPS 2023 ("expand" and "reduce").
    .. [4] Grosse et al., "Studying Large Language Model Generalization with Influence
       Functions", arXiv:2308.03296.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> from skinfluence import KFACInfluence
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPClassifier((8,), solver="lbfgs", alpha=0.1, random_state=0, max_iter=1000)
    >>> influence = KFACInfluence(model).fit(X, y)
    >>> [(layer.name, layer.shape) for layer in influence.layers_]
    [('layer 0', (8, 5)), ('layer 1', (3, 9))]
    >>> influence.influence(X[:2], y[:2]).shape
    (2, 150)
    """

    _parameter_constraints: dict = {
        **BaseInfluence._parameter_constraints,
        "eigenvalue_correction": ["boolean"],
        "fisher": [StrOptions({"true", "sampled", "empirical"})],
        "shared": [StrOptions({"expand", "reduce"})],
        "unfactored": [StrOptions({"dense", "diagonal"})],
        "sketch_size": [
            None,
            StrOptions({"auto"}),
            Interval(RealNotInt, 0, 1, closed="neither"),
            Interval(Integral, 1, None, closed="left"),
            tuple,
        ],
        "sketch": [StrOptions({"nystrom", "gaussian"})],
        **REFINEMENT,
        **STORAGE,
        "delta": [Interval(Real, 0, 1, closed="neither")],
    }
    _parameter_constraints.pop("curvature")

    def __init__(
        self,
        estimator,
        *,
        eigenvalue_correction=True,
        fisher="true",
        shared="expand",
        unfactored="dense",
        sketch_size=None,
        sketch="nystrom",
        refine=0,
        eps=0.1,
        delta=0.05,
        damping="auto",
        storage=None,
        batch_size=None,
        n_jobs=None,
        random_state=None,
        scoring=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.eigenvalue_correction = eigenvalue_correction
        self.fisher = fisher
        self.shared = shared
        self.unfactored = unfactored
        self.sketch_size = sketch_size
        self.sketch = sketch
        self.refine = refine
        self.eps = eps
        self.delta = delta
        self.damping = damping
        self.storage = storage
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.scoring = scoring
        self.verbose = verbose

    @property
    def curvature(self):
        """Which curvature is factored: the GGN, or the empirical Fisher."""
        return "empirical_fisher" if self.fisher == "empirical" else "ggn"

    def _make_curvature(self, objective, damping):
        random_state = check_random_state(self.random_state)
        weight = objective.weight / objective.total_weight
        rows = self._factor_rows(objective, random_state)
        self._check_dense_blocks(objective, rows)
        layers = moments(rows, weight, self.shared, self.unfactored)
        self._layers = layers
        self.layers_ = self._describe(objective, damping)
        space = Space(objective.l2_penalty)
        if self.sketch_size is not None:
            rule = {"kind": self.sketch, "eps": self.eps, "delta": self.delta}
            ridge = _ridge(objective, damping)
            sizes = sketch_sizes(self.sketch_size, layers, self.layers_, ridge, **rule)
            sketches = [
                draw_layer_sketch(layer, pair, self.sketch, random_state)
                for layer, pair in zip(layers, sizes, strict=True)
            ]
            for report, pair in zip(self.layers_, sizes, strict=True):
                report.sketch_shape = pair and pair[::-1]
            space = LayerSpace(sketches, objective.l2_penalty)
            rows = space.project(rows)
            layers = moments(rows, weight, self.shared, self.unfactored)
        curvature = KroneckerCurvature(rows, layers, space.penalty, self.eigenvalue_correction)
        return self.curvature, curvature, space

    def _match_damping(self, objective, curvature, space, damping):
        # Refined scores are those of the full curvature, and need its damping.
        if self.damping == "auto" and objective.needs_damping and self.refine == 0:
            full = self._full_curvature(objective, self.curvature)
            damping = matched_damping(objective, curvature, space, damping, full)
            shapes = [report.sketch_shape for report in self.layers_]
            self.layers_ = self._describe(objective, damping)
            for report, shape in zip(self.layers_, shapes, strict=True):
                report.sketch_shape = shape
        # The full curvature, and the factors of unsketched layers, are not needed any more.
        vars(self).pop("_full", None)
        del self._layers
        return damping

    def _full_curvature(self, objective, kind):
        # Kept from the damping of F to the one that matches it: a pass over the training rows.
        kept, full = vars(self).pop("_full", (None, None))
        self._full = kind, full if kept == kind else super()._full_curvature(objective, kind)
        return self._full[1]

    def _describe(self, objective, damping):
        names = getattr(objective, "layers", ["coef"])
        ridge = _ridge(objective, damping)
        return [describe(*pair, ridge) for pair in zip(names, self._layers, strict=True)]

    def _factor_rows(self, objective, random_state):
        if self.fisher == "sampled":
            return objective.sampled_factor_rows(random_state)
        return objective.factor_rows(self.curvature)

    def _check_dense_blocks(self, objective, rows):
        """Raise a ValueError if a parameter is too large for a block of its own."""
        if self.unfactored == "diagonal" or not rows.has_layers:
            return
        for position, block in enumerate(rows[:1].device_blocks):
            if not block.is_layer and block.n_columns > MAX_DENSE_BLOCK:
                raise ValueError(
                    f"{objective.describe_block(position)} is no linear layer whose curvature "
                    f"has factors, and its {block.n_columns} numbers are too many for a dense "
                    f"block (at most {MAX_DENSE_BLOCK}). Use unfactored='diagonal', or leave the "
                    "parameter out of those that the model studies."
                )


def _ridge(objective, damping):
    """One number for the damping and the model's own penalty."""
    return damping + float(np.mean(objective.l2_penalty))
