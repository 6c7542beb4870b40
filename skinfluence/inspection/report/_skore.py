"""The checks of the report inside a report of skore."""

from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from skinfluence.inspection.report._checks import CHECKS
from skinfluence.inspection.report._evidence import Evidence

# Which of our severities are issues for skore, and which are tips.
SEVERITIES = {"high": "issue", "medium": "issue", "low": "tip"}


def skore_checks(influence, *, groups=None, docs=None):
    """The checks of `InfluenceReport`, for a report of skore.

    Parameters
    ----------
    influence : influence estimator
        How influence is computed, fitted or not: a clone of it takes the fitted model of the
        report as it is, in place of its own.
    groups : array-like of shape (n_train,), default=None
        A group of each training row, as for `InfluenceReport`.
    docs : str, default=None
        Address of the site of this package, to which skore then links.

    Returns
    -------
    list of SkoreCheck
        What ``report.checks.add`` of a ``skore.EstimatorReport`` takes. They are slow checks:
        skore leaves them out in its fast mode.

    See Also
    --------
    InfluenceReport : The same checks as a page of their own.

    Notes
    -----
    The report of skore needs its training rows (``X_train`` and ``y_train``). skore is no
    dependency: an object with the attributes that it asks for is enough.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import ExactInfluence
    >>> from skinfluence.inspection import skore_checks
    >>> checks = skore_checks(ExactInfluence(LogisticRegression()))
    >>> checks[0].code, checks[0].title
    ('SKI001', 'Convergence')

    With skore installed, ``report = skore.EstimatorReport(model, ...)`` takes them by
    ``report.checks.add(checks)``, and ``report.checks.summarize()`` shows what they found.
    """
    shared = _SharedEvidence(influence, groups)
    return [SkoreCheck(check, shared, docs) for check in CHECKS]


class _SharedEvidence:
    """What is known of the model of a report of skore, computed once for all checks.

    Parameters
    ----------
    influence : influence estimator
        How influence is computed.
    groups : array-like of shape (n_train,) or None
        Groups of the training rows.
    """

    def __init__(self, influence, groups):
        self.influence, self.groups = influence, groups
        self._report = self._evidence = None

    def of(self, report):
        """What is known of the model of a report."""
        if report is not self._report:
            influence = clone(self.influence)
            influence.set_params(estimator=FrozenEstimator(report.estimator_))
            influence.fit(report.X_train, report.y_train)
            self._evidence = Evidence(influence, report.X_test, report.y_test, self.groups)
            self._report = report
        return self._evidence


class SkoreCheck:
    """One check, with the attributes that skore asks for.

    Parameters
    ----------
    check : Check
        The check.
    shared : object
        ``shared.of(report)`` is what is known of the model of a report.
    docs : str or None
        Address of the site.

    Attributes
    ----------
    code, title : str
        Code and title of the check.
    severity : {"issue", "tip"}
        What skore calls it.
    docs_url : str or None
        Where the site explains the check.
    report_types, report_type : list of str, str
        The kinds of reports of skore that it is for, of one fitted estimator: in the form of its
        newer releases, and of its older ones.
    slow : bool
        True: it costs as much as a few solves.
    """

    report_type = "estimator"
    slow = True

    def __init__(self, check, shared, docs):
        self.check, self.shared = check, shared
        self.code, self.title = check.code, check.title
        self.severity = SEVERITIES[check.severity]
        self.docs_url = None if docs is None else f"{docs.rstrip('/')}/{check.docs_url}"
        self.report_types = [self.report_type]

    def check_function(self, report):
        """What the check found in a report of skore.

        Parameters
        ----------
        report : skore.EstimatorReport
            The report.

        Returns
        -------
        str or None
            What is to be done, None where nothing is.

        Raises
        ------
        skore.CheckNotApplicable
            If the check has nothing to say, with the reason.
        """
        from skore import CheckNotApplicable

        if report.X_train is None or report.y_train is None:
            raise CheckNotApplicable("Influence needs the training rows, X_train and y_train.")
        try:
            evidence = self.shared.of(report)
        except TypeError as reason:
            # A model whose objective is not known.
            raise CheckNotApplicable(str(reason)) from reason
        finding = self.check.run(evidence)
        if finding.status == "not applicable":
            raise CheckNotApplicable(finding.explanation)
        if finding.status == "passed":
            return None
        named = f" Rows: {', '.join(map(str, finding.rows))}." if finding.rows else ""
        return finding.explanation + named
