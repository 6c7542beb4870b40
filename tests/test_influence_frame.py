"""Training rows by their influence, and what is suggested of them."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import NEWTON, assert_close, cancer, diabetes, logistic, refitted, split, wine
from scipy.sparse import csr_matrix
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from skinfluence import ExactInfluence
from skinfluence.diagnostics import diagnostics_frame, influence_frame

NAMES = [f"f{i}" for i in range(13)]
OWN = ["label", "prediction", "loss", "leave_one_out_loss", "influence", "removal_effect"]


def tables():
    """Wines as tables with an index of their own, split into training rows and queries."""
    X, y = wine()
    X = pd.DataFrame(X, columns=NAMES, index=[f"wine {i}" for i in range(178)])
    y = pd.Series(np.array(["red", "rose", "white"])[y], index=X.index)
    return X[::2], y[::2], X[1::2], y[1::2]


def test_the_frame_has_what_is_known_of_each_row():
    X, y, X_query, y_query = tables()
    influence = ExactInfluence(make_pipeline(StandardScaler(), logistic())).fit(X, y)
    frame = influence_frame(influence, X_query, y_query)
    assert list(frame) == [*OWN, "suggestion", *NAMES]
    pd.testing.assert_frame_equal(frame.loc[X.index, NAMES], X)
    assert (frame["influence"].diff().dropna() <= 0).all()
    frame = frame.loc[X.index]
    assert (frame["label"] == y).all()
    assert (frame["prediction"] == influence.estimator_.predict(X)).all()
    expected = influence.influence(X_query, y_query, reduce="mean")
    assert_close(frame["influence"].to_numpy(), expected, 1e-12)
    expected = influence.leave_one_out_effect(X_query, y_query, reduce="mean")
    assert_close(frame["removal_effect"].to_numpy(), expected, 1e-12)
    for name in ("loss", "leave_one_out_loss"):
        expected = diagnostics_frame(influence)[name]
        assert_close(frame[name].to_numpy(), expected.to_numpy(), 1e-12)


def test_the_rows_of_most_influence_come_from_both_ends():
    X, y, X_query, y_query = tables()
    influence = ExactInfluence(logistic()).fit(X, y)
    every = influence_frame(influence, X_query, y_query)
    most = every["influence"].abs().nlargest(10)
    some = influence_frame(influence, X_query, y_query, k=10)
    pd.testing.assert_frame_equal(some, every.loc[every.index.isin(most.index)])
    for k in (0, 2.5):
        with pytest.raises(ValueError, match="k must be a positive integer"):
            influence_frame(influence, X_query, y_query, k=k)


def test_training_columns_come_from_any_table():
    X, y, X_query, y_query = tables()
    clash = X.rename(columns={"f0": "loss"})
    clash.index = np.zeros(len(X))
    frame = influence_frame(ExactInfluence(logistic()).fit(clash, y), clash, y)
    assert list(frame)[7:] == ["loss (feature)", *NAMES[1:]]
    assert len(frame) == len(X)
    own = {name: X[name].to_numpy() for name in NAMES}
    polars = ExactInfluence(logistic()).fit(pl.DataFrame(own), y.to_numpy())
    frame = influence_frame(polars, pl.DataFrame(own), y.to_numpy()).sort_index()
    assert_close(frame[NAMES].to_numpy(), X.to_numpy(), 0)
    plain = ExactInfluence(logistic()).fit(X.to_numpy(), y.to_numpy())
    frame = influence_frame(plain, X_query.to_numpy(), y_query.to_numpy()).sort_index()
    assert_close(frame[[f"x{i}" for i in range(13)]].to_numpy(), X.to_numpy(), 0)
    sparse = ExactInfluence(logistic()).fit(csr_matrix(X.to_numpy()), y.to_numpy())
    frame = influence_frame(sparse, csr_matrix(X_query.to_numpy()), y_query.to_numpy())
    assert list(frame) == [*OWN, "suggestion"]


def test_flipped_labels_are_suggested():
    X, y, X_query, y_query = split(*cancer())
    wrong = np.arange(len(y)) % 12 == 0
    y = np.where(wrong, 1 - y, y)
    influence = ExactInfluence(logistic()).fit(X, y)
    frame = influence_frame(influence, X_query, y_query).sort_index()
    suspected = (frame["suggestion"] == "mislabelled").to_numpy()
    assert wrong[suspected].mean() > 0.8
    assert suspected[wrong].mean() > 0.7


def test_the_rule_for_wrong_labels_is_that_of_refits():
    X, y, X_query, y_query = split(*wine(), n_queries=40, n_train=90)
    y[::9] = (y[::9] + 1) % 3
    model = logistic(C=1.0).set_params(**NEWTON)
    frame = influence_frame(ExactInfluence(model).fit(X, y), X_query, y_query).sort_index()
    rows = np.arange(90)
    p = np.array([refitted(model, X, y, rows != i).predict_proba(X[[i]])[0] for i in rows])
    typical = np.array([p[y == code, code].mean() for code in range(3)])
    best = p.argmax(axis=1)
    expected = (best != y) & (p[rows, best] >= typical[best])
    assert ((frame["suggestion"] == "mislabelled").to_numpy() == expected).all()
    assert expected.any()


def test_redundant_rows_move_the_parameters_by_less_than_they_promise():
    X, y, X_query, y_query = split(*cancer())
    model = logistic(C=1.0).set_params(**NEWTON)
    influence = ExactInfluence(model).fit(X, y)
    frame = influence_frame(influence, X_query, y_query).sort_index()
    redundant = (frame["suggestion"] == "redundant").to_numpy()
    assert redundant.sum() > 10
    refit = refitted(model, X, y, ~redundant)
    full = influence.estimator_
    move = np.append(refit.coef_ - full.coef_, refit.intercept_ - full.intercept_)
    design, p = np.column_stack([X, np.ones(len(y))]), full.predict_proba(X)[:, 1]
    hessian = (design * (p * (1 - p))[:, None]).T @ design + np.diag([1.0] * 30 + [0.0])
    squared = move @ hessian @ move / influence.effective_dimension_
    assert np.sqrt(squared) < 0.1


def test_a_row_without_neighbours_is_isolated_and_one_far_from_the_line_is_wrong():
    X, y, X_query, y_query = split(*diabetes())
    X[3], y[5] = 8 * X[3], y[5] + 1000
    influence = ExactInfluence(Ridge()).fit(X, y)
    y[3] = influence.estimator_.predict(X[[3]])[0]
    frame = influence_frame(ExactInfluence(Ridge()).fit(X, y), X_query, y_query)
    assert frame["suggestion"][[3, 5]].tolist() == ["isolated", "mislabelled"]


def test_models_without_probabilities_suspect_large_losses():
    X, y, X_query, y_query = split(*cancer())
    y[[2, 4]] = 1 - y[[2, 4]]
    influence = ExactInfluence(LinearSVC(C=0.01, tol=1e-10, max_iter=100_000)).fit(X, y)
    frame = influence_frame(influence, X_query, y_query)
    assert frame["suggestion"][[2, 4]].tolist() == ["mislabelled"] * 2


def test_several_targets_have_several_labels():
    X, y, X_query, y_query = split(*diabetes())
    both, query = np.column_stack([y, -y]), np.column_stack([y_query, -y_query])
    influence = ExactInfluence(Ridge()).fit(X, both)
    frame = influence_frame(influence, X_query, query).sort_index()
    assert_close(frame[["label 0", "label 1"]].to_numpy(), both, 0)
