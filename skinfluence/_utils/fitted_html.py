"""What a fit has found, as a table beneath scikit-learn's picture of an estimator."""

from html import escape

from skinfluence._utils.sklearn_private import _is_fitted

ROW = "<tr><th style='text-align:left'>{}</th><td>{}</td><td>{}</td></tr>"
TABLE = "<table class='skinfluence-fit'><caption>{}</caption><tbody>{}</tbody></table>"


class FittedHTMLMixin:
    """Adds a table of what a fit has found to the HTML representation of an estimator.

    Need to be defined: ``_found``, an iterable of name, value and remark.
    """

    def _repr_html_inner(self):
        return super()._repr_html_inner() + self._found_html()

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        if "text/html" in bundle:
            bundle["text/html"] += self._found_html()
        return bundle

    def _get_fitted_attr_html(self, doc_link=""):
        # Newer releases of scikit-learn would compute every attribute for a table of their own:
        # an effective dimension can take longer than the fit.
        return {}

    def _found_html(self):
        if not _is_fitted(self):
            return ""
        rows = (ROW.format(*(escape(str(part)) for part in row)) for row in self._found())
        return TABLE.format(f"Found by the fit of {type(self).__name__}", "".join(rows))
