"""The pictures of the report, as data that a page holds itself."""

from base64 import b64encode
from io import BytesIO

from skinfluence.inspection._diagnostics import DiagnosticsDisplay
from skinfluence.inspection._influence import InfluenceDisplay
from skinfluence.inspection._memorization import MemorizationDisplay
from skinfluence.inspection._removal_curve import RemovalCurveDisplay

DPI, SIZE = 110, (6.4, 4.4)

# Share of the training rows up to which the curve drops rows, in so many steps.
SHARE, N_STEPS = 0.2, 5


def figures(evidence, k):
    """The pictures of a report.

    Parameters
    ----------
    evidence : Evidence
        What is known of the fit.
    k : int
        Number of rows at each end of the bars.

    Returns
    -------
    list of (str, str)
        Description and address of each picture; the address holds the picture itself.
    """
    names = evidence.index.astype(str).to_numpy(dtype=object)
    title = f"{evidence.model}, {evidence.n_train} training rows"
    queries = f"{evidence.model}, mean of {evidence.n_queries} validation rows"
    drawn = {
        "Training rows with the largest influence on the mean validation loss": lambda ax: (
            InfluenceDisplay(evidence.influence, row_labels=names, title=queries).plot(ax, k=k)
        ),
        "Score of the validation rows after dropping training rows": lambda ax: (
            RemovalCurveDisplay.from_estimator(
                evidence.estimator,
                evidence.X,
                evidence.y,
                share=SHARE,
                n_steps=N_STEPS,
                n_random=1,
                ax=ax,
            )
        ),
        "Residual and leverage of the training rows": lambda ax: DiagnosticsDisplay.from_frame(
            evidence.cases, title=title, ax=ax
        ),
        "Self-influence of the training rows": lambda ax: MemorizationDisplay(
            evidence.cases["self_influence"], name="Self-influence", title=title
        ).plot(ax),
    }
    return [(text, _address(draw)) for text, draw in drawn.items()]


def _address(draw):
    from matplotlib.figure import Figure

    # Not of pyplot, which would show it in a notebook.
    figure = Figure(figsize=SIZE, layout="constrained")
    draw(figure.subplots())
    file = BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode("ascii")
