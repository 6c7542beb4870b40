"""A query image beside the training images that matter most for it."""

import numpy as np

from skinfluence._utils.arrays import vector
from skinfluence.inspection._axes import make_axes
from skinfluence.inspection._examples import Examples, colour_of, training_rows


class ImageExamplesDisplay:
    """A query and the training images that matter most for it, as thumbnails.

    Frames are orange where the row is harmful, or raises the prediction, and blue where it is
    helpful.

    Parameters
    ----------
    query : array-like of shape (height, width) or (height, width, 3)
        The query.
    images : array-like of shape (n_rows, height, width) or (n_rows, height, width, 3)
        The training images, the most harmful first.
    influence : array-like of shape (n_rows,)
        Their influence on the query.
    captions : sequence of str, default=None
        Names of the images. None means their influence.
    query_caption : str, default="query"
        Name of the query.
    title : str, default=None
        Title of the picture.

    Attributes
    ----------
    thumbnails_ : list of matplotlib Axes
        Axes of the query and of the images.
    ax_ : matplotlib Axes
        Axes with the picture.
    figure_ : matplotlib Figure
        Figure with the axes.

    See Also
    --------
    TableExamplesDisplay : The same for tables.
    TextExamplesDisplay : The same for texts.

    Examples
    --------
    >>> import numpy as np
    >>> from skinfluence.inspection import ImageExamplesDisplay
    >>> images = np.arange(12.0).reshape(3, 2, 2)
    >>> display = ImageExamplesDisplay(images[0], images[1:], [0.5, -0.5]).plot()
    >>> [axes.get_title() for axes in display.thumbnails_]
    ['query', '+0.5', '-0.5']
    """

    def __init__(
        self, query, images, influence, *, captions=None, query_caption="query", title=None
    ):
        self.influence = vector(influence, "influence")
        self.query, self.images = np.asarray(query), np.asarray(images)
        if self.images.shape != (len(self.influence), *self.query.shape):
            raise ValueError(
                "images must hold one image of the query's shape for each influence. Got the "
                f"shape {self.images.shape} for {len(self.influence)} influences and a query of "
                f"shape {self.query.shape}."
            )
        self.captions = captions
        self.query_caption = query_caption
        self.title = title

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, k=4, shape=None, ax=None):
        """Draw one query and the training images that matter most for it.

        Parameters
        ----------
        estimator : influence estimator
            Fitted on images: pixels as columns, or arrays with several axes.
        X : array-like of shape (1, n_pixels) or (1, channels, height, width)
            The query.
        y : array-like of shape (1,), default=None
            Its target. None means influence on the prediction.
        k : int, default=4
            How many rows of each sign.
        shape : tuple of int, default=None
            Shape of an image: ``(height, width)``, ``(height, width, 3)``, or with one or three
            channels first. None means that of the rows, and a square for flat ones.
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : ImageExamplesDisplay
            The display, drawn.

        Raises
        ------
        ValueError
            If there is not one query, or its pixels have not the given shape.
        """
        examples = Examples.of(estimator, X, y, k)
        rows = np.asarray(training_rows(estimator, examples.indices), dtype=float)
        return cls(
            _as_images(np.asarray(X, dtype=float), shape)[0],
            _as_images(rows, shape),
            examples.influence,
            captions=examples.captions,
            query_caption=examples.query_caption,
            title=examples.title,
        ).plot(ax)

    def plot(self, ax=None):
        """Draw the thumbnails.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None means a new figure.

        Returns
        -------
        display : ImageExamplesDisplay
            The display itself.
        """
        self.ax_ = make_axes(ax)
        self.figure_ = self.ax_.figure
        self.ax_.axis("off")
        self.ax_.set_title(self.title or "")
        n_columns = -(-len(self.images) // 2)
        # The query takes a column of its own, the images two lines.
        size = 1 / (n_columns + 1)
        self.thumbnails_ = [self._thumbnail((0, 0.25, size, 0.5), self.query, self.query_caption)]
        captions = self.captions or [f"{value:+.3g}" for value in self.influence]
        for position, (image, caption) in enumerate(zip(self.images, captions, strict=True)):
            line, column = divmod(position, n_columns)
            corner = ((column + 1) * size, 0.5 * (1 - line))
            inset = self._thumbnail((*corner, size, 0.5), image, caption.replace(": ", "\n"))
            for side in inset.spines.values():
                side.set(color=colour_of(self.influence[position]), linewidth=3)
            self.thumbnails_.append(inset)
        return self

    def _thumbnail(self, place, image, caption):
        x, y, width, height = place
        inside = [x + 0.1 * width, y + 0.05 * height, 0.8 * width, 0.7 * height]
        inset = self.ax_.inset_axes(inside)
        pixels = np.concatenate([self.query[None], self.images])
        low, high = pixels.min(), pixels.max()
        scaled = (image - low) / (high - low or 1)
        inset.imshow(scaled, cmap="gray", vmin=0, vmax=1)
        inset.set(xticks=[], yticks=[])
        inset.set_title(caption, fontsize="small")
        return inset


def _as_images(rows, shape):
    """Rows as images with their channels last."""
    if shape is None:
        side = round(np.sqrt(rows[0].size))
        is_square = rows.ndim == 2 and side * side == rows[0].size
        shape = (side, side) if is_square else rows.shape[1:]
    if np.prod(shape) != rows[0].size or len(shape) not in (2, 3):
        raise ValueError(
            f"shape must be that of an image of {rows[0].size} pixels and channels, such as "
            f"(height, width). Got {tuple(shape)}."
        )
    images = rows.reshape(-1, *shape)
    if images.ndim == 4 and images.shape[-1] not in (1, 3):
        images = np.moveaxis(images, 1, -1)
    return images[..., 0] if images.ndim == 4 and images.shape[-1] == 1 else images
