"""What a check is, and what it finds."""

from dataclasses import dataclass

import numpy as np

from skinfluence.inspection.report._evidence import Evidence

# From the gravest on.
SEVERITIES = ("high", "medium", "low")
STATUSES = ("issue", "passed", "not applicable")

# Page of the site that explains each check, under its code.
PAGE = "guide/report.html"


class NotApplicable(Exception):
    """A check has nothing to say about a fit; the message gives the reason."""


@dataclass(frozen=True)
class Answer:
    """What a check says of a fit.

    Parameters
    ----------
    is_issue : bool
        Whether something is to be done.
    explanation : str
        What was measured, and what to do.
    positions : array-like of int, default=()
        Training rows that it names, the gravest first.
    """

    is_issue: bool
    explanation: str
    positions: tuple = ()


@dataclass(frozen=True)
class Finding:
    """What a check found in a fit.

    Parameters
    ----------
    check : Check
        The check.
    status : {"issue", "passed", "not applicable"}
        Whether something is to be done.
    explanation : str
        What was measured and what to do, or why the check does not apply.
    positions : ndarray of int
        Positions of the training rows that it names, the gravest first.
    rows : list
        The same rows by the index of the training table.
    """

    check: "Check"
    status: str
    explanation: str
    positions: np.ndarray
    rows: list


class Check:
    """One question that the report asks of a fit.

    Parameters
    ----------
    code : str
        Code, such as ``"SKI001"``, which never changes its meaning.
    title : str
        What is looked at.
    severity : {"high", "medium", "low"}
        How grave an issue is: "high" where numbers cannot be trusted, "medium" where rows need a
        look, "low" where they are worth one.
    ask : callable
        ``ask(evidence)`` returns an `Answer`, or raises `NotApplicable`. The first sentence of
        its docstring says what is measured, and when that is an issue.

    Attributes
    ----------
    description : str
        What is measured, and when that is an issue.
    docs_url : str
        Where the site explains the check, relative to its first page.
    """

    def __init__(self, code, title, severity, ask):
        self.code = code
        self.title = title
        self.severity = severity
        self.description = " ".join(ask.__doc__.split())
        self.docs_url = f"{PAGE}#{code.lower()}"
        self._ask = ask

    def __repr__(self):
        return f"<{self.code} {self.title}>"

    def __call__(self, estimator, X_valid, y_valid, *, groups=None):
        """Ask a fitted influence estimator.

        Parameters
        ----------
        estimator : influence estimator
            Fitted.
        X_valid : {array-like, sparse matrix} of shape (n_queries, n_features)
            Validation rows.
        y_valid : array-like of shape (n_queries,)
            Their targets.
        groups : array-like of shape (n_train,), default=None
            Groups of training rows.

        Returns
        -------
        Finding
        """
        return self.run(Evidence(estimator, X_valid, y_valid, groups))

    def run(self, evidence):
        """Ask what is known already, so that several checks share the work.

        Parameters
        ----------
        evidence : Evidence
            What is known of a fit: ``InfluenceReport(...).evidence``.

        Returns
        -------
        Finding
        """
        try:
            answer = self._ask(evidence)
        except NotApplicable as reason:
            return self._finding(evidence, "not applicable", str(reason), ())
        status = "issue" if answer.is_issue else "passed"
        return self._finding(evidence, status, answer.explanation, answer.positions)

    def _finding(self, evidence, status, explanation, positions):
        positions = np.asarray(positions, dtype=np.intp)
        rows = evidence.index[positions].tolist()
        return Finding(self, status, explanation, positions, rows)
