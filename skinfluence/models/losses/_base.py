"""What every loss is asked."""

from abc import ABC, abstractmethod

import numpy as np


class Loss(ABC):
    """A per-sample loss of raw outputs."""

    separable = True
    quadratic = False

    # Whether outputs are contrasts of the scores of the classes.
    has_contrasts = False

    # Whether adding a constant to all outputs changes nothing.
    ignores_shifts = False

    # Whether outputs are scores of classes.
    classifies = False

    @abstractmethod
    def encode(self, y, classes):
        """Targets as the loss reads them, (n, t) in float64."""

    @abstractmethod
    def value(self, z, y):
        """Loss of each sample."""

    @abstractmethod
    def residual(self, z, y):
        """First derivative with respect to the raw outputs."""

    @abstractmethod
    def hessian(self, z, y):
        """Second derivative with respect to the raw outputs."""

    def terms(self, z, y):
        """Terms of the loss of each sample: one for each output, (..., n, k), or (..., n, 1)."""
        return self.value(z, y)[..., None]

    def residual_terms(self, z, y):
        """First derivatives of the terms of the loss, (n, r, k): one, or one for each position."""
        return self.residual(z, y)[:, None, :]

    def hessian_product(self, z, y):
        """Function that multiplies vectors (..., n, k) with the Hessian of each sample."""
        hessian = self.hessian(z, y)
        if self.separable:
            return lambda vectors: hessian * vectors
        return lambda vectors: np.matmul(hessian, vectors[..., None])[..., 0]

    def hessian_diagonal(self, z, y):
        """Diagonal of the Hessian of each sample, (..., n, k)."""
        hessian = self.hessian(z, y)
        return hessian if self.separable else np.einsum("...kk->...k", hessian)

    def hessian_factor(self, z, y):
        """Rows whose outer products add up to the Hessian, (n, s, k).

        Raises
        ------
        ValueError
            If the Hessian of a sample has a negative eigenvalue, so that no such rows exist.
        """
        hessian = self.hessian(z, y)
        if self.separable:
            _check_convex(hessian)
            root = np.sqrt(np.clip(hessian, 0, None))
            return root[..., None] * np.eye(root.shape[-1])
        values, vectors = np.linalg.eigh(hessian)
        _check_convex(values)
        root = np.sqrt(np.clip(values, 0, None))
        return root[..., None] * np.swapaxes(vectors, -1, -2)

    def draws(self, n_samples, n_outputs, random_state):
        """Random numbers of each sample, (n_samples, r), of which `sampled_factor` makes a row."""
        return random_state.choice([-1.0, 1.0], size=(n_samples, n_outputs))

    def sampled_factor(self, z, y, draws):
        """One random row for each sample whose outer product has the mean Hessian, (n, 1, k).

        Parameters
        ----------
        z : ndarray of shape (n, k)
            Raw outputs.
        y : ndarray of shape (n, t)
            Targets.
        draws : ndarray of shape (n, r)
            Random numbers of these samples, as the method ``draws`` gives them.

        Raises
        ------
        ValueError
            If the Hessian of a sample has a negative eigenvalue.
        """
        factor = self.hessian_factor(z, y)
        # Independent signs make all cross terms vanish in the mean.
        return np.einsum("ns,nsk->nk", draws[:, : factor.shape[1]], factor)[:, None]

    def third_derivative(self, z, y):
        """Third derivative with respect to one raw output, (..., n, 1).

        None for losses of several outputs, and where it does not exist everywhere.
        """
        return np.zeros_like(z) if self.quadratic and z.shape[-1] == 1 else None

    def squared_residual(self, z, y):
        """``r' h^+ r`` of each sample, for its residual r and its Hessian h, (..., n)."""
        residual, hessian = self.residual(z, y), self.hessian(z, y)
        if self.separable:
            scaled = np.divide(residual, hessian, out=np.zeros_like(residual), where=hessian > 0)
        else:
            scaled = np.matmul(np.linalg.pinv(hessian, hermitian=True), residual[..., None])[
                ..., 0
            ]
        return np.einsum("...k,...k->...", residual, scaled)

    def largest_step(self, z, moves):
        """Largest shares, at most 1, of moves of the outputs that keep the loss finite.

        Parameters
        ----------
        z, moves : ndarray of shape (..., n, k)
            Outputs inside the domain of the loss, and their planned changes.

        Returns
        -------
        ndarray of shape (..., n)
        """
        return np.ones(moves.shape[:-1])

    # Positions of the classes that are left, None for all of them.
    kept = None

    def scores(self, z):
        """What the model's own methods make their predictions of, (..., n, n_scores).

        The outputs themselves, or the scores of the classes of which they are contrasts.
        """
        return z @ self.visible(z.shape[-1]).T

    # Distribution of the targets whose likelihood the loss is, None where there is none.
    family = None

    # What a user sees of the outputs, see `skinfluence.models.responses`.

    def visible(self, k):
        """Matrix (c, k) from raw outputs to those that a user sees."""
        return np.eye(k)

    def log_weights(self, outputs):
        """Logarithms of which probabilities are a softmax, and their derivatives, (n, c) each.

        None where the model has no probabilities with a derivative.
        """
        return None

    def own(self, values):
        """Class of each sample, from visible outputs or from targets; None in a regression."""
        return None

    def mean(self, outputs):
        """Predictions of a regression from its visible outputs."""
        return outputs

    def margin(self, outputs, own=None):
        """Derivative of the prediction under study by the visible outputs, (n, c).

        The prediction is that of a regression (the sum of several), or the margin of a
        classifier, the score of the class ``own`` minus the largest other score.
        """
        return np.ones_like(outputs)

    def choice(self, outputs, own=None):
        """Derivative of the output of the class ``own``, or of the sum of outputs, (n, c)."""
        return np.ones_like(outputs)


def _check_convex(values):
    if values.min(initial=0) < -1e-10 * max(1.0, values.max(initial=0)):
        raise ValueError(
            "The loss of some samples has negative curvature in the outputs, so its Hessian is "
            "no sum of squares. Use ExactInfluence with curvature='hessian' and "
            "solver='direct', or the empirical Fisher: curvature='empirical_fisher', which "
            "KFACInfluence calls fisher='empirical'."
        )
