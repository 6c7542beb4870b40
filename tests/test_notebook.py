"""What one meets in a notebook: tables with the index of the data, pictures of fits, warnings."""

import time
from html.parser import HTMLParser

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import (
    AveragedInfluence,
    ClassifierHeadInfluence,
    ExactInfluence,
    FilteredEstimator,
    KFACInfluence,
    LeaveOneOutSearch,
    MemorizationSelector,
    RelativeHessianInfluence,
    SketchedInfluence,
    SketchedInfluenceCV,
)
from skinfluence.metrics import InfluenceScorer
from tests.helpers import cancer, perceptron, split

MODEL = LogisticRegression()
SEARCH = {"sketch_sizes": [8], "dampings": [0.1], "cv": 2, "random_state": 0}

TRANSFORMERS = [
    AveragedInfluence(KFACInfluence(perceptron(max_iter=100)), n_fits=2, random_state=0),
    ClassifierHeadInfluence(MODEL),
    ExactInfluence(MODEL),
    KFACInfluence(MODEL),
    RelativeHessianInfluence(MODEL, subset_size=100, random_state=0),
    SketchedInfluence(MODEL, sketch_size=8, random_state=0),
    SketchedInfluenceCV(MODEL, scoring=InfluenceScorer("faithfulness"), **SEARCH),
]


def name_of(estimator):
    return type(estimator).__name__


@pytest.fixture(scope="module")
def tables():
    pd = pytest.importorskip("pandas")
    X, y, Xq, _ = split(*cancer(), n_queries=4, n_train=150)
    columns = [f"feature {i}" for i in range(X.shape[1])]
    queries = pd.DataFrame(Xq, columns=columns, index=["a", "b", "c", "d"])
    return pd.DataFrame(X, columns=columns), y, queries


@pytest.mark.filterwarnings("ignore:MLPClassifier has not converged", "ignore:Stochastic Opt")
@pytest.mark.filterwarnings("ignore:lbfgs failed")
@pytest.mark.parametrize("estimator", TRANSFORMERS, ids=name_of)
def test_embeddings_are_tables_with_the_index_of_the_queries(estimator, tables):
    X, y, queries = tables
    fitted = estimator.set_output(transform="pandas").fit(X, y)
    table = fitted.transform(queries)
    assert list(table.index) == list(queries.index)
    assert list(table.columns) == list(fitted.get_feature_names_out())
    assert_array_equal(table, fitted.set_output(transform="default").transform(queries))


@pytest.mark.filterwarnings("ignore:lbfgs failed")
@pytest.mark.parametrize("estimator", TRANSFORMERS, ids=name_of)
def test_embeddings_are_tables_of_polars(estimator, tables):
    pl = pytest.importorskip("polars")
    X, y, queries = tables
    fitted = estimator.set_output(transform="polars").fit(X, y)
    table = fitted.transform(pl.from_dict({name: queries[name].tolist() for name in queries}))
    assert isinstance(table, pl.DataFrame)
    assert table.columns == list(fitted.get_feature_names_out())
    assert_array_equal(table, fitted.set_output(transform="default").transform(queries))


# ---------------------------------------------------------------------------
# Pictures of fits
# ---------------------------------------------------------------------------


class Cells(HTMLParser):
    """Rows of the table of a fit."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.inside |= ("class", "skinfluence-fit") in attrs
        if self.inside and tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        self.inside &= tag != "table"

    def handle_data(self, data):
        if self.inside and self.rows:
            self.rows[-1].append(data)


def found(estimator):
    return {name: (value, remark) for name, value, remark in Cells(estimator._repr_html_()).rows}


def test_a_fit_shows_what_it_has_found():
    X, y = cancer()
    influence = SketchedInfluence(MODEL, sketch_size=8, random_state=0)
    assert not found(influence)
    table = found(influence.fit(X, y))
    assert table["damping"] == ("0", "found by the fit")
    assert float(table["effective dimension"][0]) == pytest.approx(
        influence.effective_dimension_, rel=1e-3
    )
    assert table["sketch size"][0] == "8"
    assert f"{influence.stationarity_:.2e}" in table["convergence"][0]
    assert table["convergence"][1].startswith("at the minimum")
    assert found(ExactInfluence(MODEL, damping=0.5).fit(X, y))["damping"] == ("0.5", "as given")


def test_notebooks_and_their_viewers_get_the_same_table():
    influence = ExactInfluence(MODEL).fit(*cancer())
    bundle = influence._repr_mimebundle_()
    assert Cells(bundle["text/html"]).rows == Cells(influence._repr_html_()).rows != []
    with config_context(display="text"):
        assert "text/html" not in influence._repr_mimebundle_()


@pytest.mark.filterwarnings("ignore:MLPClassifier has not converged", "ignore:lbfgs failed")
def test_a_fit_shows_that_it_has_not_converged():
    influence = KFACInfluence(perceptron(max_iter=3)).fit(*cancer())
    assert found(influence)["convergence"][1].startswith("not at the minimum")


def test_a_picture_costs_little_and_never_fails(monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2000, 1100))
    influence = ExactInfluence(Ridge(), solver="cg", random_state=0).fit(X, X[:, 0])
    start = time.process_time()
    table = found(influence)
    assert time.process_time() - start < 1
    assert table["effective dimension"][0] == "not computed here"
    monkeypatch.setattr("skinfluence._utils.kept_rows.SMALL", 1000)
    X = rng.standard_normal((100, 5))
    influence = ExactInfluence(Ridge()).fit(X, X[:, 0])
    X *= 2
    assert "changed since fit" in found(influence)["effective dimension"][1]


# ---------------------------------------------------------------------------
# Networks
# ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*held out 10% of the rows")
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("stop", [{"early_stopping": True}, {"max_iter": 5}], ids=str)
def test_networks_that_are_stopped_early_get_the_advice_for_networks(stop):
    X, y = cancer()
    model = MLPClassifier((5,), random_state=0, **stop)
    with pytest.warns(ConvergenceWarning, match="MLPClassifier has not converged") as told:
        ExactInfluence(model, curvature="ggn").fit(X, y)
    (message,) = [str(w.message) for w in told if "on these rows" in str(w.message)]
    for advice in ("score(X_valid, y_valid)", "solver='lbfgs'", "early_stopping=False"):
        assert advice in message
    assert "StandardScaler" not in message


def test_linear_models_get_the_advice_for_linear_models():
    model = LogisticRegression(C=1e4, max_iter=2)
    with pytest.warns(ConvergenceWarning) as told:
        ExactInfluence(model).fit(*cancer())
    assert any("StandardScaler in a Pipeline" in str(warning.message) for warning in told)


@pytest.mark.parametrize(
    "wrap",
    [
        ClassifierHeadInfluence,
        ExactInfluence,
        KFACInfluence,
        RelativeHessianInfluence,
        SketchedInfluence,
        SketchedInfluenceCV,
        FilteredEstimator,
        lambda module: AveragedInfluence(KFACInfluence(module)),
        lambda module: LeaveOneOutSearch(module, {}),
        lambda module: MemorizationSelector(ExactInfluence(module)),
        lambda module: make_pipeline(StandardScaler(), ExactInfluence(module)),
    ],
)
def test_a_bare_module_is_told_to_be_wrapped(wrap):
    torch = pytest.importorskip("torch")
    X, y = cancer()
    with pytest.raises(TypeError, match=r"Wrap it: .*TorchModel\(module, loss='cross_entropy'\)"):
        wrap(torch.nn.Linear(30, 2)).fit(X, y)


@pytest.mark.parametrize("name", ["CTCLoss", "TripletMarginLoss", "CosineEmbeddingLoss"])
def test_losses_of_more_than_outputs_and_targets_are_refused(name):
    nn = pytest.importorskip("torch").nn
    from skinfluence.models.torch import TorchModel

    X, y = cancer()
    model = TorchModel(nn.Linear(30, 2).double(), loss=getattr(nn, name)())
    with pytest.raises(TypeError, match=f"{name} takes .*loss='returned'"):
        ExactInfluence(model, curvature="ggn").fit(X, y)


def test_the_class_of_a_loss_is_no_loss():
    nn = pytest.importorskip("torch").nn
    from skinfluence.models.torch import TorchModel

    X, y = cancer()
    model = TorchModel(nn.Linear(30, 2).double(), loss=nn.CrossEntropyLoss)
    with pytest.raises(TypeError, match=r"CrossEntropyLoss\(\), a name"):
        ExactInfluence(model, curvature="ggn").fit(X, y)
