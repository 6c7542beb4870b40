"""Scorers of scikit-learn at raw outputs, and their change without training rows."""

import numpy as np
from sklearn.metrics import check_scoring

from skinfluence._utils.batching import batches
from skinfluence.models import predictor_of_scores
from skinfluence.refitting.moved_losses import MovedQueries


class OutputScorer:
    """A scorer of scikit-learn, applied to raw outputs of the model.

    Parameters
    ----------
    fitted_model : FittedModel
        The fitted model with its training data.
    loss : Loss
        Loss of the outputs.
    scoring : str, callable or None
        A scorer, or its name; by default the ``score`` method of the model.

    Raises
    ------
    TypeError
        If it is not known how the model makes its predictions of its raw outputs.
    """

    def __init__(self, fitted_model, loss, scoring):
        self.fitted = fitted_model.fitted
        self.loss = loss
        self.scoring = scoring

    def __call__(self, outputs, y, loss=None):
        """Score of outputs (n, k) against targets as the user gives them, a float.

        ``loss`` takes the place of the fitted model's where classes are left without rows.

        Raises
        ------
        ValueError
            If the scorer needs predictions that the model does not make.
        """
        loss = self.loss if loss is None else loss
        scores = loss.scores(outputs)
        predictor = predictor_of_scores(self.fitted, scores.shape[-1], loss.kept)
        scorer = check_scoring(predictor, self.scoring)
        try:
            return float(scorer(predictor, scores, y))
        except AttributeError as error:
            raise ValueError(
                f"The scorer {self.scoring!r} needs predictions that {type(predictor).__name__} "
                f"does not make: {error}. Expected a scorer of what the model predicts, or a "
                "model with predict_proba."
            ) from error


def moved_scores(linearisation, removed, features, y, scorer):
    """A score of queries, and its change by each removal.

    Parameters
    ----------
    linearisation : Linearisation
        Linearisation of a fit.
    removed : Removed
        The models without some rows.
    features : array of shape (n_queries, d)
        Queries as the objective reads them.
    y : array-like of shape (n_queries,) or (n_queries, n_targets)
        Their targets as the user gives them.
    scorer : OutputScorer
        Scores the outputs.

    Returns
    -------
    before : float
        Score of the fitted model.
    change : ndarray of shape (n_removals,)
        Change of the score; NaN for removals that leave no model.
    """
    objective, removals = linearisation.objective, removed.removals
    outputs = objective.outputs(features)
    before = scorer(outputs, y)
    jacobian = linearisation.space.project_queries(objective.jacobian_rows(features))
    moved = MovedQueries(linearisation, removed, jacobian, outputs)
    change = np.full(len(removals), np.nan)
    for part in batches(len(removals), 8 * (4 * outputs.size + jacobian.n_columns)):
        after = outputs + moved.of(part)
        for removal in np.arange(part.start, part.stop)[~removed.refused[part]]:
            loss = removals.other_losses.get(int(removal))
            change[removal] = scorer(after[removal - part.start], y, loss) - before
    return before, change
