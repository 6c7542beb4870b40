"""A fitted model, what it was fitted on, and the steps that stand in front of it."""

import warnings
from copy import copy
from functools import cached_property

import joblib
import numpy as np
from sklearn.pipeline import Pipeline

from skinfluence._utils.kept_rows import fingerprint_of, kept_rows
from skinfluence._utils.left_out import LeftOut
from skinfluence._utils.stored_once import StoredOnce
from skinfluence._utils.validation import check_model_features
from skinfluence.models.doors import objective
from skinfluence.models.wrappers import unwrap


class FittedModel(StoredOnce):
    """A fitted model, what it was fitted on, and the steps that stand in front of it.

    Parameters
    ----------
    given : estimator
        The estimator as the user gave it.
    fitted : estimator
        Its fitted clone, or itself where it is frozen.
    X : array-like of shape (n_samples, n_features)
        Training rows, in front of all steps.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Their targets.
    sample_weight : ndarray of shape (n_samples,)
        Their weights.
    table : array-like of shape (n_samples, n_features), default=None
        Training rows as the user gave them, with their names and their index if they have any;
        ``X`` by default. For tables alone: neither copied nor computed with.

    Attributes
    ----------
    model : estimator
        The final model, fitted.
    features : {ndarray, CSR matrix} of shape (n_samples, d)
        Training rows as the model sees them.
    given_y : ndarray of shape (n_samples,) or (n_samples, n_targets)
        Their targets as the user gave them.
    y : ndarray of shape (n_samples,) or (n_samples, n_targets)
        Their targets as the model sees them.
    """

    def __init__(self, given, fitted, X, y, sample_weight, table=None):
        self._unwrap(given, fitted)
        self.features, self._fingerprint = kept_rows(self.featurize(X), X)
        # What is neither named nor transformed is held, and stored, once.
        table = X if table is None else table
        is_own = self.featurizers or hasattr(table, "columns")
        self.table = table if is_own else self.features
        self.given_y = np.array(y)
        self.y = self.read_targets(self.given_y)
        self.sample_weight = np.array(sample_weight)

    def _unwrap(self, given, fitted):
        """Set the final model, and the steps in front of it."""
        self.given, self.fitted = given, fitted
        unwrapped = unwrap(fitted)
        self.model, self.featurizers = unwrapped.model, unwrapped.featurizers
        self.target_steps = unwrapped.target_steps

    def gathered(self):
        """The same with all training rows in memory, for what refits the model.

        Raises
        ------
        MemoryError
            If they come in pieces that do not fit into the working memory together.
        """
        return self

    def without_rows(self, objective):
        """The same for queries alone, which holds nothing of the training rows.

        Parameters
        ----------
        objective : Objective
            The objective that the model minimised, without its rows.
        """
        bare = copy(self)
        bare.features, bare.table = LeftOut(self.features.shape), LeftOut()
        bare.given_y = bare.y = bare.sample_weight = LeftOut()
        bare.objective, bare._fingerprint = objective, None
        vars(bare).pop("known_objective", None)
        return bare

    def check_unchanged(self):
        """Raise a ValueError if the user's array has changed since the model was fitted."""
        if self._fingerprint is None or fingerprint_of(self.features) == self._fingerprint:
            return
        raise ValueError(
            "The training rows have changed since fit, and are too large to be copied by it: "
            "influence would mix old numbers with new ones. Fit again, or give fit a copy of "
            "the rows."
        )

    def checksum(self):
        """Checksum of the training rows, their targets and their weights, str."""
        return joblib.hash((self.features, self.y, self.sample_weight))

    def featurize(self, X):
        """Rows as the model sees them.

        Raises
        ------
        ValueError
            If they have another number of features than the training rows.
        """
        for step in self.featurizers:
            X = step.transform(X)
        features = check_model_features(X)
        expected = getattr(self, "features", features).shape[1:]
        if features.shape[1:] != expected:
            found, wanted = (
                " x ".join(map(str, shape)) for shape in (features.shape[1:], expected)
            )
            raise ValueError(
                f"X has {found} features, but {type(self.model).__name__} is expecting {wanted} "
                "features as input."
            )
        return features

    def read_targets(self, y):
        """Targets as the model sees them: transformed, where the user's model does so."""
        for step in self.target_steps if y is not None else []:
            y = step(y)
        return y

    @cached_property
    def objective(self):
        """Objective that the model minimised, in all of its parameters.

        Raises
        ------
        TypeError
            If it is not known, or not smooth.
        """
        return objective(self.model, self.features, self.y, self.sample_weight)

    @cached_property
    def known_objective(self):
        """The objective, or None where it is not known."""
        try:
            with warnings.catch_warnings():
                # These warnings were issued when the model was fitted.
                warnings.simplefilter("ignore", UserWarning)
                return self.objective
        except TypeError:
            return None

    def given_as(self, estimator):
        """The same fitted model, whose refits are those of this estimator."""
        twin = copy(self)
        twin.given = estimator
        return twin

    @property
    def untrained(self):
        """The final model as it was given, or else as it was fitted.

        A module inside a fitted net is trained, and a clone of that net would go on from there.
        """
        model = self.given
        while isinstance(model, Pipeline):
            model = model.steps[-1][1]
        return model if type(model) is type(self.model) else self.model
