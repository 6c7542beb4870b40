"""Numbers of a fitted model, and their changes when single training rows leave."""

from numbers import Integral

import numpy as np

from skinfluence._utils.batching import batches
from skinfluence.refitting.moved_losses import MovedQueries, moved_losses
from skinfluence.refitting.moved_scores import OutputScorer, moved_scores


def target_of(target, linearisation, features, y):
    """What a set of rows is to move.

    Parameters
    ----------
    target : {"loss", "output"}, int, str or callable
        Mean loss or output of queries, position of a parameter, or a scorer.
    linearisation : Linearisation
        Linearisation of the fit.
    features : array of shape (n_queries, d) or None
        Queries as the model sees them.
    y : array-like of shape (n_queries,) or None
        Their targets as the user gives them.

    Returns
    -------
    object
        With ``value(linearisation)``, a float, and ``changes(linearisation, removed)``,
        (n_removals,), for any fit of the same model.

    Raises
    ------
    ValueError
        If the parameter does not exist, queries or targets are missing, or the model has several
        outputs.
    """
    objective = linearisation.objective
    if isinstance(target, Integral) and not isinstance(target, bool):
        if not 0 <= target < objective.n_params:
            raise ValueError(
                f"target must be a parameter from 0 to {objective.n_params - 1}. Got {target}."
            )
        return _Parameter(int(target))
    if features is None:
        raise ValueError(f"The target {target!r} needs queries. Expected X, or a parameter.")
    if target == "output":
        n_scores = objective.loss.scores(objective.training_outputs[:1]).shape[-1]
        if n_scores > 1:
            raise ValueError(
                f"The model has {n_scores} outputs. Expected a model of one output; use the loss, "
                "a scorer or a parameter for the target."
            )
        return _Output(features)
    if y is None:
        raise ValueError(f"The target {target!r} needs the targets of the queries. Expected y.")
    if target == "loss":
        return _Loss(features, linearisation.fitted_model.read_targets(y))
    return _Score(features, y, OutputScorer(linearisation.fitted_model, objective.loss, target))


class _Parameter:
    """One parameter in the model's own layout."""

    def __init__(self, position):
        self.position = position

    def value(self, linearisation):
        objective = linearisation.objective
        return float(objective.to_parameters(objective.theta[None])[0, self.position])

    def changes(self, linearisation, removed):
        change = np.empty(len(removed.removals))
        for part in removed.parts():
            delta = linearisation.space.lift(removed.parameter_changes(part))
            change[part] = linearisation.objective.to_parameters(delta)[:, self.position]
        change[removed.refused] = np.nan
        return change


class _Output:
    """Mean raw output of queries."""

    def __init__(self, features):
        self.features = features

    def value(self, linearisation):
        return float(self._mean(linearisation, self._outputs(linearisation)))

    def changes(self, linearisation, removed):
        objective = linearisation.objective
        outputs = self._outputs(linearisation)
        rows = objective.jacobian_rows(linearisation.objective.read(self.features))
        jacobian = linearisation.space.project_queries(rows)
        moved = MovedQueries(linearisation, removed, jacobian, outputs)
        before, change = self.value(linearisation), np.empty(len(removed.removals))
        for part in batches(len(change), 8 * (4 * outputs.size + jacobian.n_columns)):
            change[part] = self._mean(linearisation, outputs + moved.of(part)) - before
        change[removed.refused] = np.nan
        return change

    def _outputs(self, linearisation):
        return linearisation.objective.outputs(linearisation.objective.read(self.features))

    @staticmethod
    def _mean(linearisation, outputs):
        return linearisation.objective.loss.scores(outputs)[..., 0].mean(axis=-1)


class _Loss:
    """Mean loss of queries."""

    def __init__(self, features, y):
        self.features = features
        self.y = y

    def _read(self, linearisation):
        objective = linearisation.objective
        features = objective.read(self.features)
        return features, objective.encode_queries(self.y, features.shape[0])

    def value(self, linearisation):
        return float(linearisation.objective.losses(*self._read(linearisation)).mean())

    def changes(self, linearisation, removed):
        return moved_losses(linearisation, removed, *self._read(linearisation), "mean")


class _Score:
    """A score of queries."""

    def __init__(self, features, y, scorer):
        self.features = features
        self.y = y
        self.scorer = scorer

    def value(self, linearisation):
        objective = linearisation.objective
        return self.scorer(objective.outputs(objective.read(self.features)), self.y)

    def changes(self, linearisation, removed):
        features = linearisation.objective.read(self.features)
        return moved_scores(linearisation, removed, features, self.y, self.scorer)[1]
