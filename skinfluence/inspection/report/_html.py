"""The report as HTML: one template, filled."""

from itertools import count

import numpy as np

# Training columns that a table shows.
N_COLUMNS = 6

# Reports in one notebook have names of their own.
NUMBERS = count()


def render(report, docs, is_page):
    """HTML of a report.

    Parameters
    ----------
    report : InfluenceReport
        The report.
    docs : str or None
        Address of the site.
    is_page : bool
        Whether to make a page of its own, or a part of one.

    Returns
    -------
    str
    """
    try:
        from jinja2 import Environment, PackageLoader
    except ImportError as error:
        raise ImportError(
            "The page of the report needs jinja2. Install it with "
            "`pip install 'skinfluence[report]'`, or use to_frame()."
        ) from error
    # Names of rows, columns and labels are the user's: they are text, never markup.
    environment = Environment(loader=PackageLoader(__package__), autoescape=True)
    environment.filters["number"] = _number
    template = environment.get_template("page.html.j2" if is_page else "body.html.j2")
    evidence = report.evidence
    tables = {
        found.check.code: _table(evidence, found.positions, report.k)
        for found in report.findings
        if len(found.positions)
    }
    return template.render(
        facts=_facts(evidence),
        findings=report.findings,
        tables=tables,
        extremes=_table(evidence, _extremes(evidence.influence, report.k), None),
        figures=report.pictures,
        docs=docs and docs.rstrip("/"),
        k=report.k,
        prefix=f"ski{next(NUMBERS)}",
        title=f"Influence report of {evidence.model}",
    )


def _facts(evidence):
    """What the head of the page says of the fit, by name."""
    estimator = evidence.estimator
    return {
        "model": evidence.model,
        "influence by": type(estimator).__name__,
        "training rows": f"{evidence.n_train:,}",
        "validation rows": f"{evidence.n_queries:,}",
        "parameters": f"{estimator.n_params_:,}",
        "curvature": estimator.curvature_kind_,
        "damping": f"{estimator.damping_:.3g}",
        "effective dimension": f"{estimator.effective_dimension_:.4g}",
        "numbers kept for a row": f"{estimator.n_stored_:,.0f}",
    }


def _extremes(influence, k):
    """Positions of the k most harmful rows, then of the k most helpful ones."""
    order = np.argsort(-influence, kind="stable")
    return order if len(order) <= 2 * k else np.r_[order[:k], order[-k:]]


def _table(evidence, positions, k):
    """Names of columns, and lines of (name of the row, cells)."""
    rows = evidence.rows.iloc[positions[:k]]
    n_own = list(evidence.rows.columns).index("suggestion") + 1
    rows = rows.iloc[:, : n_own + N_COLUMNS]
    lines = zip(rows.index, rows.itertuples(index=False, name=None), strict=True)
    return {"columns": list(rows.columns), "lines": list(lines)}


def _number(value):
    """A cell as text: floats by four digits."""
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
