"""A query text beside the training texts that matter most for it, with the words that count."""

import re

import numpy as np

from skinfluence._utils.arrays import vector
from skinfluence.diagnostics import column_contributions
from skinfluence.diagnostics._parameters import feature_names
from skinfluence.inspection._axes import HARMFUL, HELPFUL, label_colours, make_axes
from skinfluence.inspection._examples import Examples, colour_of, training_rows

# Characters of a line, and lines of a snippet.
WIDTH, LINES = 84, 3

# Width of a character of the monospace font, in sizes of the font.
CHARACTER = 0.602

# Smaller shares of the largest contribution leave a word plain.
FAINTEST = 0.05

WORDS = re.compile(r"\w+|[^\w\s]+")


class TextExamplesDisplay:
    """A query and the training texts that matter most for it, as snippets with marked words.

    Words are marked by their part in the influence, which is a sum over the columns of a linear
    model: orange raises the loss (or the prediction), blue lowers it, and the deeper the more. A
    snippet is the part of the text that holds most of it.

    Parameters
    ----------
    query : str
        The query.
    texts : sequence of str of shape (n_rows,)
        The training texts, the most harmful first.
    influence : array-like of shape (n_rows,)
        Their influence on the query.
    contributions : sequence of dict of str to float
        For each text, parts of its words in the influence. Words are compared as they are, and in
        small letters.
    captions : sequence of str, default=None
        Names of the texts. None means their influence.
    query_caption : str, default="query"
        Name of the query.
    quantity : {"loss", "prediction"}, default="loss"
        What is influenced, for the legend.
    title : str, default=None
        Title of the picture.

    Attributes
    ----------
    marked_ : list of list of str
        The marked words of each text that are shown.
    ax_ : matplotlib Axes
        Axes with the picture.
    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    TableExamplesDisplay : The same for tables.
    ImageExamplesDisplay : The same for images.
    skinfluence.diagnostics.column_contributions : The parts as numbers.

    Examples
    --------
    >>> from skinfluence.inspection import TextExamplesDisplay
    >>> parts = [{"wrong": 0.4}, {"right": -0.6}]
    >>> texts = ["This is wrong.", "This is right."]
    >>> TextExamplesDisplay("Is it?", texts, [0.4, -0.6], parts).plot().marked_
    [['wrong'], ['right']]
    """

    def __init__(
        self,
        query,
        texts,
        influence,
        contributions,
        *,
        captions=None,
        query_caption="query",
        quantity="loss",
        title=None,
    ):
        self.influence = vector(influence, "influence")
        self.query, self.texts = str(query), [str(text) for text in texts]
        self.contributions = list(contributions)
        if not len(self.texts) == len(self.contributions) == len(self.influence):
            raise ValueError(
                "texts, influence and contributions must have one entry for each row. Got "
                f"{len(self.texts)}, {len(self.influence)} and {len(self.contributions)}."
            )
        self.captions = captions
        self.query_caption = query_caption
        self.quantity = quantity
        self.title = title

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, k=2, ax=None):
        """Draw one query and the training texts that matter most for it.

        Parameters
        ----------
        estimator : influence estimator
            Fitted on texts: a linear model behind a vectorizer whose columns are words.
        X : sequence of str of length 1
            The query.
        y : array-like of shape (1,), default=None
            Its target. None means influence on the prediction.
        k : int, default=2
            How many texts of each sign.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : TextExamplesDisplay
            The display, drawn.

        Raises
        ------
        TypeError
            If the model is not linear in its columns.
        ValueError
            If there is not one query.
        """
        examples = Examples.of(estimator, X, y, k)
        fits = estimator.fits_
        parts = sum(column_contributions(fit, X, y, examples.indices) for fit in fits) / len(fits)
        names = np.asarray(feature_names(fits[0].linearisation_.fitted_model), dtype=object)
        parts = np.asarray(parts.todense() if hasattr(parts, "todense") else parts)
        contributions = [
            dict(zip(names[row != 0], row[row != 0].tolist(), strict=True)) for row in parts
        ]
        return cls(
            next(iter(X)),
            training_rows(estimator, examples.indices),
            examples.influence,
            contributions,
            captions=examples.captions,
            query_caption=examples.query_caption,
            quantity=examples.quantity,
            title=examples.title,
        ).plot(ax)

    def plot(self, ax=None):
        """Draw the snippets.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : TextExamplesDisplay
            The display itself.
        """
        captions = self.captions or [f"{value:+.3g}" for value in self.influence]
        blocks = [(self.query_caption, "0.2", _snippet(self.query, {}), {})]
        for caption, text, value, parts in zip(
            captions, self.texts, self.influence, self.contributions, strict=True
        ):
            blocks.append((caption, colour_of(value), _snippet(text, parts), parts))
        n_lines = sum(len(lines) + 2 for _, _, lines, _ in blocks)
        self.ax_ = make_axes(ax)
        self.figure_ = self.ax_.figure
        self.ax_.set(xlim=(0, WIDTH), ylim=(n_lines, -0.5), xticks=[], yticks=[])
        self.ax_.spines[:].set_visible(False)
        self.ax_.set_title(self.title or "")
        self.marked_, line = [], 0
        for caption, colour, lines, parts in blocks:
            self.ax_.text(
                0, line, caption, color=colour, fontweight="bold", va="top", parse_math=False
            )
            marked = self._write(line + 1, lines, parts)
            self.marked_.append(marked)
            line += len(lines) + 2
        del self.marked_[0]
        raises, lowers = (f"{verb} the {self.quantity}" for verb in ("raises", "lowers"))
        label_colours(self.ax_, {raises: HARMFUL, lowers: HELPFUL})
        return self

    def _write(self, line, lines, parts):
        """Write lines of words, and return the marked ones."""
        values = [abs(part) for each in self.contributions for part in each.values()]
        largest = max(values, default=0.0) or 1.0
        size = self._font_size()
        marked = []
        for number, words in enumerate(lines):
            for start, word in words:
                share = _part(word, parts) / largest
                box = None
                if abs(share) > FAINTEST:
                    marked.append(word)
                    box = {"facecolor": colour_of(share), "alpha": 0.15 + 0.6 * abs(share)}
                    box |= {"edgecolor": "none", "pad": 1}
                self.ax_.text(
                    start, line + number, word,
                    family="monospace", fontsize=size, va="top", bbox=box, parse_math=False,
                )  # fmt: skip
        return marked

    def _font_size(self):
        """Points at which a line of `WIDTH` characters of one width fills the axes."""
        self.figure_.draw_without_rendering()
        width = 72 * self.figure_.get_figwidth() * self.ax_.get_position().width
        return width / (CHARACTER * WIDTH)


def _lines(text):
    """Lines of (column, word)."""
    lines, column, end = [[]], 0, 0
    for match in WORDS.finditer(text):
        word = match.group()[:WIDTH]
        start = column + (match.start() > end and column > 0)
        # A comma stays at its word.
        if start + len(word) > WIDTH and (start > column or word[0].isalnum()):
            lines.append([])
            start = 0
        lines[-1].append((start, word))
        column, end = start + len(word), match.end()
    return lines


def _snippet(text, parts):
    """The lines of a text that hold most of its influence."""
    lines = _lines(text)
    weight = [sum(abs(_part(word, parts)) for _, word in line) for line in lines]
    sums = np.convolve(weight, np.ones(LINES), "valid") if len(lines) > LINES else [0.0]
    first = int(np.argmax(sums))
    return lines[first : first + LINES]


def _part(word, parts):
    return parts.get(word, parts.get(word.lower(), 0.0))
