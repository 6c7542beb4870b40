"""The report."""

from functools import cached_property
from pathlib import Path

from skinfluence.inspection.report._checks import CHECKS
from skinfluence.inspection.report._evidence import Evidence
from skinfluence.inspection.report._figures import figures
from skinfluence.inspection.report._finding import SEVERITIES, STATUSES
from skinfluence.inspection.report._html import render


class InfluenceReport:
    """What hurts, what is suspect, and whether the numbers may be trusted, on one page.

    Ten checks are asked of a fit, and each answers with an issue, with a pass, or with the reason
    why it does not apply. An issue is a place to look at, not a verdict: rows that help the model
    on hard cases are named too.

    Parameters
    ----------
    estimator : influence estimator
        Fitted.
    X_valid : {array-like, sparse matrix} of shape (n_queries, n_features)
        Validation rows, which the model has not seen.
    y_valid : array-like of shape (n_queries,) or (n_queries, n_targets)
        Their targets.
    groups : array-like of shape (n_train,), default=None
        A group of each training row, such as its source, for the check of groups. None means the
        groups of each column of text, categories or booleans with few values.
    k : int, default=10
        How many rows the tables of the page and its pictures show.

    Attributes
    ----------
    checks : list of Check
        What is asked, with ``code``, ``title``, ``severity``, ``description`` and ``docs_url``
        (relative to the first page of the site). ``check(estimator, X_valid, y_valid)`` asks one
        of them alone, and ``check.run(report.evidence)`` shares what is computed already; both
        return a finding with ``check``, ``status`` ("issue", "passed", "not applicable"),
        ``explanation``, ``positions`` and ``rows``. The same for all reports.
    evidence : Evidence
        What the checks share.

    Raises
    ------
    TypeError
        If the estimator is no influence estimator.
    ValueError
        If lengths disagree.

    See Also
    --------
    skinfluence.diagnostics.influence_frame : The training rows by their influence.

    Notes
    -----
    Everything is computed on first use: leverages, the models without each row (as
    `leave_one_out_effect` has them, and kept by the estimator for later calls), five solves for
    means over validation rows (and bounds on the errors of an approximate curvature), and
    removals: two sets of rows for the check of harm, at most fifty groups, eighteen sets for the
    picture. A logistic regression on 20,000 rows of 50 features, with 2,000 validation rows, took
    four seconds of one core for the checks, as `leave_one_out_effect` alone does, and four for
    the page.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import ExactInfluence
    >>> from skinfluence.inspection import InfluenceReport
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> y.iloc[40] = 2
    >>> influence = ExactInfluence(LogisticRegression(max_iter=1000)).fit(X[::2], y[::2])
    >>> frame = InfluenceReport(influence, X[1::2], y[1::2]).to_frame()
    >>> frame.loc["SKI006", ["status", "title"]].tolist()
    ['issue', 'Suspected labels']
    >>> frame.loc["SKI006", "rows"][0]
    40
    """

    checks = CHECKS

    def __init__(self, estimator, X_valid, y_valid, *, groups=None, k=10):
        self.evidence = Evidence(estimator, X_valid, y_valid, groups)
        self.k = k

    @cached_property
    def findings(self):
        """What the checks found: issues first, the gravest first."""
        found = [check.run(self.evidence) for check in self.checks]
        return sorted(found, key=_rank)

    @cached_property
    def pictures(self):
        """Description and address of each picture; the address holds the picture itself."""
        return figures(self.evidence, self.k)

    def to_frame(self):
        """What the checks found, as a table.

        Returns
        -------
        pandas.DataFrame
            One line for each check, issues first and the gravest first, with the codes for index
            and the columns ``status``, ``severity``, ``title``, ``explanation``, ``rows`` (a list
            of names from the index of the training table, the gravest first) and ``docs``.
        """
        import pandas as pd

        lines = [
            {
                "code": found.check.code,
                "status": found.status,
                "severity": found.check.severity,
                "title": found.check.title,
                "explanation": found.explanation,
                "rows": found.rows,
                "docs": found.check.docs_url,
            }
            for found in self.findings
        ]
        return pd.DataFrame(lines).set_index("code")

    def to_html(self, path, *, docs=None):
        """Write one page that needs no other file, and the training rows as CSV beside it.

        Parameters
        ----------
        path : str or path-like
            Where the page is written; the table has the same name with the ending ``.csv``.
        docs : str, default=None
            Address of the site of this package, to whose guide the page then links.

        Returns
        -------
        pathlib.Path
            The page.

        Raises
        ------
        ImportError
            If jinja2 or matplotlib is not installed.
        """
        path = Path(path)
        path.write_text(render(self, docs, is_page=True), encoding="utf-8")
        rows = self.evidence.rows.sort_values("influence", ascending=False, kind="stable")
        rows.to_csv(path.with_suffix(".csv"), index_label="row")
        return path

    def _repr_html_(self):
        return render(self, None, is_page=False)


def _rank(finding):
    return STATUSES.index(finding.status), SEVERITIES.index(finding.check.severity)
