"""A query beside training rows, in the columns in which they differ."""

import numpy as np

from skinfluence._utils.arrays import require_shape, vector
from skinfluence.diagnostics._tables import training_table
from skinfluence.inspection._axes import cut, make_axes
from skinfluence.inspection._examples import Examples, colour_of

# Differences beyond so many standard deviations have the deepest colour.
DEEPEST = 3.0

# Differences beyond so many are so deep that their values are written in white.
DARK = 1.5


class TableExamplesDisplay:
    """A query and the training rows that matter most for it, side by side.

    The columns are those in which the rows differ most from the query, in standard deviations of
    the training rows (columns that are no numbers differ by one, or not at all). Colours are the
    differences; names of rows are orange where the row is harmful, or raises the prediction, and
    blue where it is helpful.

    Parameters
    ----------
    query : array-like of shape (n_columns,)
        Values of the query.
    rows : array-like of shape (n_rows, n_columns)
        Values of the training rows.
    influence : array-like of shape (n_rows,)
        Their influence on the query.
    spread : array-like of shape (n_columns,), default=None
        Standard deviation of each column; NaN for columns that are no numbers. None means 1.
    columns : sequence of str, default=None
        Names of the columns. None means their numbers.
    captions : sequence of str, default=None
        Names of the rows. None means their influence.
    query_caption : str, default="query"
        Name of the query.
    title : str, default=None
        Title of the picture.

    Attributes
    ----------
    columns_ : ndarray of int
        Columns that are shown, the largest differences first.
    differences_ : ndarray of shape (n_rows, n_columns)
        Differences from the query in standard deviations.
    ax_ : matplotlib Axes
        Axes with the picture.
    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    ImageExamplesDisplay : The same for images.
    TextExamplesDisplay : The same for texts.

    Examples
    --------
    >>> from skinfluence.inspection import TableExamplesDisplay
    >>> display = TableExamplesDisplay([1.0, 5.0], [[1.0, 9.0], [2.0, 5.0]], [0.3, -0.2]).plot()
    >>> display.columns_
    array([1, 0])
    """

    def __init__(
        self,
        query,
        rows,
        influence,
        *,
        spread=None,
        columns=None,
        captions=None,
        query_caption="query",
        title=None,
    ):
        self.influence = vector(influence, "influence")
        self.query = np.asarray(query, dtype=object)
        self.rows = np.asarray(rows, dtype=object)
        shape = (len(self.influence), len(self.query))
        require_shape(self.rows, "rows", shape, "(n_rows, n_columns)")
        self.spread = np.ones(shape[1]) if spread is None else np.asarray(spread, dtype=float)
        require_shape(self.spread, "spread", (shape[1],), "(n_columns,)")
        self.columns = list(range(shape[1])) if columns is None else list(columns)
        self.captions = captions
        self.query_caption = query_caption
        self.title = title

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, k=3, n_columns=8, ax=None):
        """Draw one query and the training rows that matter most for it.

        Parameters
        ----------
        estimator : influence estimator
            Fitted on a table.
        X : array-like of shape (1, n_features)
            The query.
        y : array-like of shape (1,), default=None
            Its target. None means influence on the prediction.
        k : int, default=3
            How many rows of each sign.
        n_columns : int, default=8
            At most how many columns are shown.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : TableExamplesDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If there is not one query, or the training rows are no table.
        """
        examples = Examples.of(estimator, X, y, k)
        table = training_table(estimator.fits_[0])
        if not len(table.columns):
            raise ValueError(
                "The training rows are no table. Use ImageExamplesDisplay or TextExamplesDisplay."
            )
        numbers = table.select_dtypes("number")
        spread = numbers.astype(float).std().reindex(table.columns).to_numpy()
        query = [X[name].iloc[0] for name in table] if hasattr(X, "iloc") else np.asarray(X)[0]
        return cls(
            query,
            table.iloc[examples.indices].to_numpy(dtype=object),
            examples.influence,
            spread=spread,
            columns=table.columns,
            captions=examples.captions,
            query_caption=examples.query_caption,
            title=examples.title,
        ).plot(ax, n_columns=n_columns)

    @property
    def _differences(self):
        found = np.zeros(self.rows.shape)
        for column, spread in enumerate(self.spread):
            values, query = self.rows[:, column], self.query[column]
            if np.isnan(spread):
                found[:, column] = values != query
            elif spread > 0:
                found[:, column] = np.nan_to_num((values.astype(float) - float(query)) / spread)
        return found

    def plot(self, ax=None, *, n_columns=8):
        """Draw the table.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.
        n_columns : int, default=8
            At most how many columns are shown.

        Returns
        -------
        display : TableExamplesDisplay
            The display itself.
        """
        self.ax_ = make_axes(ax)
        self.figure_ = self.ax_.figure
        self.differences_ = self._differences
        largest = np.abs(self.differences_).max(axis=0)
        self.columns_ = np.argsort(-largest, kind="stable")[:n_columns]
        shown = self.differences_[:, self.columns_]
        colours = np.vstack([np.zeros(len(self.columns_)), shown])
        image = self.ax_.imshow(colours, cmap="PuOr_r", vmin=-DEEPEST, vmax=DEEPEST, aspect="auto")
        self._write_values()
        self._name_axes()
        bar = self.figure_.colorbar(image, ax=self.ax_, shrink=0.6)
        bar.set_label("Difference from the query\nin standard deviations", fontsize="small")
        self.ax_.set_title(self.title or "")
        return self

    def _write_values(self):
        values = np.vstack([self.query, self.rows])[:, self.columns_]
        for (row, column), value in np.ndenumerate(values):
            text = f"{value:.4g}" if isinstance(value, (float, np.floating)) else cut(str(value))
            deep = row > 0 and abs(self.differences_[row - 1, self.columns_[column]]) > DARK
            self.ax_.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize="small",
                fontweight="bold" if row == 0 else "normal",
                color="white" if deep else "black",
            )

    def _name_axes(self):
        captions = self.captions or [f"{value:+.3g}" for value in self.influence]
        names = [cut(str(self.columns[column])) for column in self.columns_]
        self.ax_.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize="small")
        self.ax_.set_yticks(range(len(captions) + 1), [self.query_caption, *captions])
        for label, value in zip(self.ax_.get_yticklabels()[1:], self.influence, strict=True):
            label.set_color(colour_of(value))
        self.ax_.axhline(0.5, color="0.2", linewidth=1.5)
        self.ax_.set(xlabel="Columns that differ most", ylabel="Row, label: influence")
        self.ax_.tick_params(length=0)
