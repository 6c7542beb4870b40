"""The checks of the report: what they measure, and when that is an issue."""

import warnings

import numpy as np

from skinfluence.diagnostics._tables import training_table
from skinfluence.exceptions import NumericalWarning
from skinfluence.inspection.report._finding import Answer, Check, NotApplicable
from skinfluence.inspection.report._neighbours import near_pairs
from skinfluence.models.convergence import STATIONARITY_TOLERANCE, STEP_TOLERANCE

# Share of the effective dimension that a damping may hold back.
HELD_BACK = 0.1

# Share of a score that a bound on its error may have, and how many scores are asked.
ERROR, N_SCORES = 0.25, 10

# Share of its own output above which a row decides it.
OWN_SHARE = 0.5

# Exact leverages exceed 1 by rounding alone.
ROUNDING = 1e-6

# A label counts as memorized if its probability falls by this without its row (Feldman and Zhang).
MEMORIZED = 0.25

# A change is told from chance at so many standard errors, from so many queries on.
SURE, FEWEST_QUERIES = 2.0, 20

# Rows of which a pair of near-duplicates is sought: those that pull most.
N_CANDIDATES = 10_000

# Columns of at most so many values are groups, of at least so many rows; the largest are asked.
N_VALUES, FEWEST_ROWS, N_GROUPS = 20, 5, 50

# How many names an explanation lists.
N_NAMES = 5

CHECKS = []


def check(code, title, severity):
    """Decorator that adds a function to the checks."""

    def add(ask):
        CHECKS.append(Check(code, title, severity, ask))
        return ask

    return add


# May the numbers be trusted?


@check("SKI001", "Convergence", "high")
def convergence(evidence):
    """How far the model is from its minimum: an issue where effects would inherit the distance."""
    fit = evidence.fit
    stationarity, step = fit.objective.stationarity, fit.remaining_step()
    tolerance = STEP_TOLERANCE[fit.objective.loss.quadratic]
    measured = (
        f"The gradient of the objective is {stationarity:.1e} of the sum of its terms (at most "
        f"{STATIONARITY_TOLERANCE:.0e} is expected)"
    )
    if step:
        measured += f", and the step that is left is {step:.1e} of the residuals (at most "
        measured += f"{tolerance:.0e})"
    if stationarity <= STATIONARITY_TOLERANCE and step <= tolerance:
        return Answer(False, f"{measured}.")
    advice = "fit longer or with a smaller tol, and scale columns of very different units"
    if fit.objective.needs_damping:
        advice = "train longer, or read the scores as those of the point where training stopped"
    return Answer(True, f"{measured}. Influence is that of a point that is no minimum: {advice}.")


@check("SKI002", "Damping", "medium")
def damping(evidence):
    """Share of the effective dimension that the damping of a linear model holds back: an issue
    above a tenth, for then influence is that of a model with that much more penalty."""
    fit = evidence.fit.in_model_coordinates()
    if fit.objective.needs_damping:
        if evidence.estimator.damping == "auto":
            return Answer(False, f"{fit.damping:.3g}, found from what training has left.")
        raise NotApplicable(
            "The damping of this network was given. Whether it is the right one only refits can "
            "tell: see score(X_valid, y_valid)."
        )
    if not fit.damping:
        return Answer(False, "There is none, and none is needed.")
    with_it, without = fit.effective_dimension(), fit.at_damping(0).effective_dimension()
    share = 1 - with_it / without
    measured = (
        f"Damping {fit.damping:.3g} takes the effective dimension from {without:.3g} to "
        f"{with_it:.3g}"
    )
    if share <= HELD_BACK:
        return Answer(False, f"{measured}.")
    return Answer(
        True, f"{measured}: scores are those of a model with more penalty. Use damping='auto'."
    )


@check("SKI003", "Error of the approximation", "high")
def approximation(evidence):
    """Bounds on the errors of the largest scores, against the full curvature: an issue where half
    of them exceed a quarter of the score."""
    scores, bounds = evidence.approximation
    if not bounds.any():
        return Answer(False, "The curvature is solved directly: there is no approximation.")
    largest = np.argsort(-np.abs(scores), kind="stable")[:N_SCORES]
    size = np.maximum(np.abs(scores[largest]), np.finfo(float).tiny)
    share = np.median(bounds[largest] / size)
    sure = np.count_nonzero(bounds[largest] < size)
    measured = (
        f"Of the {len(largest)} largest scores on the mean validation loss, {sure} have a sign "
        f"that is certain; the median bound on the error is {share:.2g} of the score"
    )
    if share <= ERROR:
        return Answer(False, f"{measured}.")
    return Answer(
        True,
        f"{measured}. Bounds are not errors, which may be smaller. ExactInfluence has none; "
        "a larger sketch, or refine='auto' where the estimator has it, makes them smaller.",
    )


@check("SKI004", "Rows against directions", "high")
def directions(evidence):
    """Mean share of its own output that a training row decides: an issue above one half, where
    the model follows single rows and no step foresees a refit well."""
    mean = evidence.leverage.mean()
    measured = f"A row decides {mean:.1%} of its own output in the mean"
    if mean <= OWN_SHARE:
        return Answer(False, f"{measured}.")
    return Answer(
        True,
        f"{measured}: there are nearly as many directions as rows. Give the model a penalty, or "
        "more rows.",
    )


# Which rows need a look?


@check("SKI005", "Harmful rows", "medium")
def harmful(evidence):
    """Mean change of the loss of one half of the validation rows when the rows leave that the
    other half calls most harmful: an issue where it falls by more than two standard errors."""
    if evidence.n_queries < FEWEST_QUERIES:
        raise NotApplicable(
            f"There are {evidence.n_queries} validation rows; {FEWEST_QUERIES} are needed to tell "
            "harm from chance."
        )
    change, k = evidence.effect_on_others, evidence.n_dropped
    if not np.isfinite(change).all():
        raise NotApplicable(f"The {k} most harmful rows are all of a class.")
    mean, error = _mean_and_error(change)
    measured = (
        f"Dropping the {_rows(k)} that one half of the validation rows calls most harmful "
        f"changes the mean loss of the other half by {mean:+.2g} (standard error {error:.1g})"
    )
    if mean + SURE * error >= 0:
        return Answer(False, f"{measured}: no harm that can be told from chance.")
    worst = np.argsort(-evidence.influence, kind="stable")[:k]
    return Answer(True, f"{measured}. Look at them: {_names(evidence, worst)}.", worst)


@check("SKI006", "Suspected labels", "medium")
def labels(evidence):
    """Rows whose label or target the model without them contradicts, by the rule "mislabelled" of
    influence_frame: an issue if there are any."""
    suspected = np.flatnonzero(evidence.rows["suggestion"] == "mislabelled")
    if not len(suspected):
        return Answer(False, "The model without a row contradicts the label of none.")
    losses = evidence.rows["leave_one_out_loss"].to_numpy()
    suspected = suspected[np.argsort(-losses[suspected], kind="stable")]
    return Answer(
        True,
        f"The model without them contradicts {_rows(len(suspected))}. Look before you change "
        f"or drop them, for hard rows are named too: {_names(evidence, suspected)}.",
        suspected,
    )


@check("SKI007", "Memorized labels", "low")
def memorized(evidence):
    """Fall of the probability of a row's own label when the row is left out: an issue for rows
    where it is a quarter or more, which the model knows by heart only."""
    if evidence.probabilities is None:
        raise NotApplicable(
            f"{evidence.model} has no probabilities of labels; see the leverage of its rows."
        )
    with_it, without = evidence.probabilities
    fall = np.nan_to_num(with_it - without)
    found = np.flatnonzero(fall >= MEMORIZED)
    if not len(found):
        return Answer(False, f"The largest fall of a probability is {fall.max():.2g}.")
    found = found[np.argsort(-fall[found], kind="stable")]
    return Answer(
        True,
        f"The labels of {_rows(len(found))} lose {MEMORIZED} to {fall.max():.2g} of their "
        f"probability without the row: {_names(evidence, found)}. They are rare or wrong; where "
        "they are private too, the model gives them away.",
        found,
    )


@check("SKI008", "Leverage near 1", "medium")
def leverage(evidence):
    """Share of its own output that a row decides (its leverage, a mean over outputs): an issue
    for rows above one half."""
    share = evidence.leverage
    found = np.flatnonzero(share > OWN_SHARE)
    if not len(found):
        return Answer(False, f"The largest share is {share.max():.2g}.")
    found = found[np.argsort(-share[found], kind="stable")]
    measured = (
        f"More than {OWN_SHARE:.0%} of its own output is decided by each of {_rows(len(found))}, "
        f"up to {share.max():.0%}: {_names(evidence, found)}"
    )
    if share.max() > 1 + ROUNDING:
        measured += ". Above 100 % it is the approximate curvature that is wrong for them"
    return Answer(
        True, f"{measured}. Few rows are like them, so an error in them goes unnoticed.", found
    )


@check("SKI009", "Near-duplicates with opposite pull", "medium")
def opposites(evidence):
    """Pairs of rows that are nearly equal, at a tenth of the distance of random rows, but with
    residuals of opposite signs, of which one raises the validation loss and one lowers it, and
    one of them does so more than most rows: an issue if there are any."""
    features = evidence.fit.fitted_model.features
    if getattr(features, "dtype", np.dtype(object)).kind not in "fiub":
        raise NotApplicable("The model reads no table of numbers.")
    pull = evidence.influence
    strong = np.sort(np.argsort(-np.abs(pull), kind="stable")[:N_CANDIDATES])
    pairs = strong[near_pairs(features[strong])]
    left, right = pairs.T
    disagree = np.einsum("nk,nk->n", evidence.residuals[left], evidence.residuals[right]) < 0
    more = np.abs(pull[pairs]).max(axis=1) > np.median(np.abs(pull))
    pairs = pairs[disagree & more & (pull[left] * pull[right] < 0)]
    if not len(pairs):
        return Answer(False, "There are none.")
    names = [" and ".join(map(str, evidence.index[pair])) for pair in pairs[:N_NAMES]]
    return Answer(
        True,
        f"{len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'}, the nearest first: "
        f"{_listed(names, len(pairs))}. Two labels for one thing: look which is right.",
        list(dict.fromkeys(pairs.ravel())),
    )


@check("SKI010", "Groups that never help", "low")
def groups(evidence):
    """Mean change of the validation losses when a group of training rows leaves: an issue for
    groups without which the loss falls by more than two standard errors."""
    found = _groups(evidence)
    names, sets = list(found), list(found.values())
    with warnings.catch_warnings():
        # Groups that take a class with them are left out below.
        warnings.simplefilter("ignore", NumericalWarning)
        effect = evidence.estimator.removal_effect(sets, evidence.X, evidence.y)
    known = np.flatnonzero(np.isfinite(effect).all(axis=0))
    if evidence.n_queries < FEWEST_QUERIES or not len(known):
        raise NotApplicable(
            f"Of {len(sets)} groups, {len(known)} can leave without a class, and there are "
            f"{evidence.n_queries} validation rows; {FEWEST_QUERIES} are needed to tell harm from "
            "chance."
        )
    mean, error = _mean_and_error(effect[:, known])
    useless = np.flatnonzero(mean + SURE * error < 0)
    if not len(useless):
        return Answer(False, f"Of {len(known)} groups, none hurts beyond two standard errors.")
    useless = useless[np.argsort(mean[useless], kind="stable")]
    told = [f"{names[known[i]]} ({_rows(len(sets[known[i]]))}, {mean[i]:+.2g})" for i in useless]
    return Answer(
        True,
        f"Without them the mean validation loss falls: {_listed(told[:N_NAMES], len(told))}.",
        np.unique(np.concatenate([sets[known[i]] for i in useless])),
    )


def _groups(evidence):
    """Positions of the rows of each group, by the group's name."""
    if evidence.groups is not None:
        columns = {"group": evidence.groups}
    else:
        table = training_table(evidence.estimator)
        kinds = table.select_dtypes(include=["object", "string", "category", "bool"])
        columns = {name: kinds[name].astype(str) for name in kinds}
        columns = {name: c for name, c in columns.items() if 2 <= c.nunique() <= N_VALUES}
    found = {}
    for name, column in columns.items():
        values, codes = np.unique(np.asarray(column, dtype=str), return_inverse=True)
        for code, value in enumerate(values):
            rows = np.flatnonzero(codes == code)
            if FEWEST_ROWS <= len(rows) < evidence.n_train:
                found[f"{name} = {value}"] = rows
    if not found:
        raise NotApplicable("There are no groups: no column of categories, and groups=None.")
    largest = sorted(found, key=lambda name: -len(found[name]))[:N_GROUPS]
    return {name: found[name] for name in largest}


def _mean_and_error(changes):
    """Mean over queries, and its standard error."""
    return changes.mean(axis=0), changes.std(axis=0, ddof=1) / np.sqrt(len(changes))


def _rows(k):
    return "1 row" if k == 1 else f"{k} rows"


def _names(evidence, positions):
    """The first rows by their own index."""
    names = [str(name) for name in evidence.index[positions[:N_NAMES]]]
    return _listed(names, len(positions))


def _listed(names, n):
    text = ", ".join(names)
    return text if n <= len(names) else f"{text} and {n - len(names)} more"
