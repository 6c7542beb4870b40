"""The score of queries as training rows leave, harmful ones first and helpful ones first."""

import numpy as np
from sklearn.utils import check_array, check_random_state

from skinfluence._utils.arrays import require_shape, vector
from skinfluence._utils.sklearn_private import _num_samples
from skinfluence.diagnostics import removal_curve
from skinfluence.inspection._axes import COLOURS, HARMFUL, HELPFUL, NEUTRAL, make_axes, model_of

# Orders of removal, with their colours.
HARMFUL_FIRST, RANDOM, HELPFUL_FIRST = "harmful rows first", "random rows", "helpful rows first"
OF_ORDERS = {HARMFUL_FIRST: HARMFUL, RANDOM: NEUTRAL, HELPFUL_FIRST: HELPFUL}


class RemovalCurveDisplay:
    """Score of queries after dropping training rows in several orders.

    Where the curve of harmful rows rises above its start, those rows hurt; it turns where dropping
    more does harm. The curve of random rows says what dropping any rows does. Rows are chosen on
    the queries that are drawn, so the first curve flatters: judge it on other queries.

    Parameters
    ----------
    ks : array-like of int of shape (n_points,)
        Numbers of training rows that are dropped.
    scores : dict of str to array-like of shape (n_points,) or (n_repeats, n_points)
        Score by the name of the order, NaN where no model is left. For several repeats the line
        is the mean, and the band reaches from the smallest to the largest.
    scoring : str, default="score"
        Name of the score, for the vertical axis.
    title : str, default=None
        Title of the picture.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the picture.
    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    skinfluence.diagnostics.removal_curve : One such curve as numbers.

    Examples
    --------
    >>> from skinfluence.inspection import RemovalCurveDisplay
    >>> display = RemovalCurveDisplay([0, 5, 10], {"harmful rows first": [0.8, 0.9, 0.7]}).plot()
    >>> display.ax_.get_xlabel()
    'Training rows dropped'
    """

    def __init__(self, ks, scores, *, scoring="score", title=None):
        self.ks = vector(ks, "ks")
        if not scores:
            raise ValueError("scores must name at least one order of removal, got none.")
        self.scores = {name: self._checked(name, values) for name, values in scores.items()}
        self.scoring = scoring
        self.title = title

    def _checked(self, name, values):
        name = f"scores[{name!r}]"
        values = check_array(
            np.atleast_2d(values), input_name=name, dtype=float, ensure_all_finite="allow-nan"
        )
        require_shape(values, name, (len(values), len(self.ks)), "(n_repeats, n_points)")
        return values

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y,
        *,
        scoring=None,
        share=0.5,
        n_steps=10,
        n_random=3,
        random_state=0,
        ax=None,
    ):
        """Draw what dropping training rows does, without refitting.

        Parameters
        ----------
        estimator : influence estimator
            Fitted. Rows are ordered by their influence on the mean loss of the queries. Of
            several trainings the mean score is drawn.
        X : {array-like, sparse matrix} of shape (n_queries, n_features)
            Queries.
        y : array-like of shape (n_queries,)
            Their targets.
        scoring : str or callable, default=None
            A scorer of scikit-learn, or its name; by default the ``score`` method of the model.
        share : float, default=0.5
            Share of the training rows up to which rows are dropped.
        n_steps : int, default=10
            Steps of equal size up to there.
        n_random : int, default=3
            How many random orders are drawn; 0 leaves them out.
        random_state : int, RandomState instance or None, default=0
            Draws them.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : RemovalCurveDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If ``share`` is not in (0, 1).
        """
        if not 0 < share < 1:
            raise ValueError(f"share must be between 0 and 1. Got {share!r} instead.")
        harm = estimator.influence(X, y, reduce="mean")
        n_train = len(harm)
        last = max(1, round(share * n_train))
        ks = np.unique(np.linspace(0, last, n_steps + 1).round().astype(int))

        def curve(order):
            curves = [removal_curve(fit, order, X, y, scoring, ks=ks) for fit in estimator.fits_]
            return np.mean([each.score for each in curves], axis=0)

        rng = check_random_state(random_state)
        scores = {HARMFUL_FIRST: curve(np.argsort(-harm, kind="stable"))}
        if n_random:
            scores[RANDOM] = [curve(rng.permutation(n_train)) for _ in range(n_random)]
        scores[HELPFUL_FIRST] = curve(np.argsort(harm, kind="stable"))
        title = f"{type(model_of(estimator)).__name__}, {_num_samples(X)} queries"
        return cls(ks, scores, scoring=_name_of(scoring, estimator), title=title).plot(ax)

    def plot(self, ax=None):
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : RemovalCurveDisplay
            The display itself.
        """
        self.ax_ = make_axes(ax)
        self.figure_ = self.ax_.figure
        for index, (name, values) in enumerate(self.scores.items()):
            colour = OF_ORDERS.get(name, COLOURS[index % len(COLOURS)])
            self.ax_.plot(
                self.ks, values.mean(axis=0), "o-", markersize=3, color=colour, label=name
            )
            if len(values) > 1:
                band = values.min(axis=0), values.max(axis=0)
                self.ax_.fill_between(self.ks, *band, color=colour, alpha=0.2, linewidth=0)
        start = next(iter(self.scores.values()))[0, 0]
        self.ax_.axhline(start, color="0.2", linewidth=0.8, linestyle=":", zorder=0)
        self.ax_.set(xlabel="Training rows dropped", ylabel=f"{self.scoring} of the queries")
        self.ax_.set_title(self.title or "")
        self.ax_.legend()
        return self


def _name_of(scoring, estimator):
    if scoring is None:
        return "Accuracy" if hasattr(estimator, "classes_") else "R²"
    return scoring if isinstance(scoring, str) else "Score"
