"""What a model answers for a query, as smooth functions of its raw outputs.

Conventions
-----------
- ``z`` are the raw outputs (n, k) of the objective, which may be contrasts of class scores.
- A response has c values for each query, and knows the product of its Jacobian with vectors:
  ``pull`` maps derivatives (n, c) by the response to derivatives (n, k) by ``z``.

The responses are

- "output": what ``decision_function`` or the linear predictor gives, one column for two classes,
  else one for each class (centred over the classes for a softmax) or target;
- "probability": one column for each class, as ``predict_proba`` gives them;
- "score": the log-odds of these probabilities, one column for two classes; where a model has no
  probabilities, its outputs;
- "prediction": predictions of a regression, in the unit of the targets that the model saw;
- "loss": the loss of each query, one column;
- "auto": the probabilities of a classifier, or its outputs where it has none; else predictions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, softmax

OF = ("auto", "loss", "margin", "probability", "output")


@dataclass
class Response:
    """A smooth function of the raw outputs of queries.

    Parameters
    ----------
    value : ndarray of shape (n, c)
        Its values.
    pull : callable
        Maps derivatives (n, c) by the values to derivatives (n, k) by the raw outputs.
    """

    value: np.ndarray
    pull: Callable


def derivative_of(loss, z, of, targets=None):
    """Derivative by the raw outputs of the number that is asked of each query, (n, k).

    Parameters
    ----------
    loss : Loss
        Loss of the model.
    z : ndarray of shape (n, k)
        Raw outputs.
    of : {"loss", "margin", "probability", "output"}
        What is asked: the loss; the margin of a class, or the prediction of a regression; the
        probability of a class; the output, of a class where there are several.
    targets : ndarray of shape (n, t), default=None
        Targets as the loss reads them. They name the class; without them it is the predicted one.

    Returns
    -------
    ndarray of shape (n, k)
    """
    if of == "loss":
        return loss.residual(z, targets)
    seen = _output(loss, z, targets)
    own = loss.own(seen.value if targets is None else targets)
    if of == "margin":
        return seen.pull(loss.margin(seen.value, own))
    if of == "output":
        return seen.pull(loss.choice(seen.value, own))
    chances = _probability(loss, z, targets)
    return chances.pull(np.eye(chances.value.shape[1])[own])


def respond(loss, name, z, targets=None):
    """A response of a model at raw outputs.

    Parameters
    ----------
    loss : Loss
        Loss of the model.
    name : {"auto", "output", "probability", "score", "prediction", "loss"}
        Which response.
    z : ndarray of shape (n, k)
        Raw outputs.
    targets : ndarray of shape (n, t), default=None
        Targets as the loss reads them, for the loss.

    Returns
    -------
    Response

    Raises
    ------
    ValueError
        If the model has no such response, or targets are missing.
    """
    if name not in RESPONSES:
        raise ValueError(
            f"A functional reads one of {', '.join(map(repr, RESPONSES))}. Got the response "
            f"{name!r} instead."
        )
    return RESPONSES[name](loss, z, targets)


def _output(loss, z, targets):
    matrix = loss.visible(z.shape[1])
    return Response(z @ matrix.T, lambda vectors: vectors @ matrix)


def _log_weights(loss, z, targets):
    """Logarithms of which the probabilities are a softmax, (n, n_classes); None without any."""
    seen = _output(loss, z, targets)
    known = loss.log_weights(seen.value)
    if known is None:
        return None
    if seen.value.shape[1] == 1:
        value = np.pad(seen.value, ((0, 0), (1, 0)))
        return Response(value, lambda vectors: seen.pull(vectors[:, 1:]))
    value, derivative = known
    return Response(value, lambda vectors: seen.pull(vectors * derivative))


def _probability(loss, z, targets):
    logs = _log_weights(loss, z, targets)
    if logs is None:
        raise ValueError(
            "This model has no probabilities of classes with a derivative. Use its 'output', its "
            "'margin' or its 'loss', or a model such as LogisticRegression."
        )
    p = softmax(logs.value, axis=1)

    def pull(vectors):
        return logs.pull(p * (vectors - (p * vectors).sum(axis=1, keepdims=True)))

    return Response(p, pull)


def _score(loss, z, targets):
    logs = _log_weights(loss, z, targets)
    seen = _output(loss, z, targets)
    if logs is None or seen.value.shape[1] == 1:
        return seen
    every = np.eye(logs.value.shape[1], dtype=bool)
    # Sums over the other classes, not 1 - p, which is rounding where p is nearly 1.
    others = np.column_stack([logsumexp(logs.value[:, ~own], axis=1) for own in every])
    total = logsumexp(logs.value, axis=1, keepdims=True)
    p, rest = np.exp(logs.value - total), np.exp(others - total)

    def pull(vectors):
        shares = vectors / rest
        return logs.pull(vectors - p * (shares.sum(axis=1, keepdims=True) - shares))

    return Response(logs.value - others, pull)


def _prediction(loss, z, targets):
    seen = _output(loss, z, targets)
    value, derivative = loss.mean(seen.value), loss.margin(seen.value)
    return Response(value, lambda vectors: seen.pull(vectors * derivative))


def _loss(loss, z, targets):
    if targets is None:
        raise ValueError("y is None. Expected the targets of the queries, for their losses.")
    residual = loss.residual(z, targets)
    return Response(loss.value(z, targets)[:, None], lambda vectors: vectors * residual)


def _auto(loss, z, targets):
    if not loss.classifies:
        return _prediction(loss, z, targets)
    known = loss.log_weights(_output(loss, z, targets).value)
    return (_output if known is None else _probability)(loss, z, targets)


RESPONSES = {
    "auto": _auto,
    "output": _output,
    "probability": _probability,
    "score": _score,
    "prediction": _prediction,
    "loss": _loss,
}
