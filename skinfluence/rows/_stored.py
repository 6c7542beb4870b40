"""Rows that are kept in files, part by part.

A folder holds one ``.npy`` file for each part and a manifest. A file is written beside its place
and renamed, so that what has a part's name is whole. The manifest tells what the rows are of.
"""

import json
import os
from functools import partial, singledispatch
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from skinfluence._utils.progress import track
from skinfluence.rows._base import DenseRows
from skinfluence.rows._composed import BlockRows
from skinfluence.rows._kronecker import KroneckerRows
from skinfluence.rows._shared import SharedRows
from skinfluence.rows._streamed import StreamedRows
from skinfluence.rows._tokens import TokenRows

FORMAT = 1
MANIFEST = "manifest.json"

# Relative error up to which numbers are those of the same rows.
SAME = 1e-6


class StoredRows(StreamedRows):
    """Rows in a folder, read when a product needs them.

    Parameters
    ----------
    folder : Path
        Holds the parts and their manifest.
    edges : list of int of length n_parts + 1
        First row of every part, and the number of all rows.
    layout : dict
        How `packed` rows are read.

    See Also
    --------
    StoredRows.of : Writes the parts that are missing.
    """

    def __init__(self, folder, edges, layout):
        first = unpacked(layout, np.zeros((1, width(layout))))
        shape = edges[-1], first.rows_per_sample, first.n_columns
        read = partial(_read, folder, np.array(edges), layout)
        super().__init__(read, *shape, 2 * 8 * width(layout))
        self.has_layers = first.has_layers

    @classmethod
    def of(cls, folder, rows, keep, identity, batch_size=None):
        """Rows in a folder, of which the parts that are missing are made.

        Parameters
        ----------
        folder : str or path-like
            Made if there is none.
        rows : Rows
            The rows, made batch by batch.
        keep : callable
            ``keep(rows)`` gives what is kept of a batch, as rows.
        identity : dict of str to str or list of float
            What the rows are of: texts that have to be the same, and numbers, up to rounding.
        batch_size : int, default=None
            Rows of a part; by default as many as ``working_memory`` allows.

        Returns
        -------
        StoredRows

        Raises
        ------
        ValueError
            If the folder holds rows of something else, or no manifest.
        """
        folder = Path(folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        layout, _ = packed(keep(rows[:1]))
        stops = [part.stop for part in rows.batches(batch_size)]
        wanted = {"format": FORMAT, **identity, "layout": layout, "edges": [0, *stops]}
        manifest = _agreed(folder, wanted)
        edges = manifest["edges"]
        parts = list(zip(edges[:-1], edges[1:], strict=True))
        for i, (start, stop) in enumerate(track(parts, "stored parts")):
            path = _path(folder, i)
            if not _is_whole(path, (stop - start, width(layout))):
                found, array = packed(keep(rows[start:stop]))
                if found != layout:
                    raise ValueError(
                        f"The rows from {start} to {stop} have another form than the first, so "
                        "that one table cannot hold them. Use storage=None."
                    )
                _write(path, partial(np.save, arr=array))
        return cls(folder, edges, layout)


def _agreed(folder, wanted):
    """The manifest of a folder that holds what is wanted, as far as it is there."""
    path = folder / MANIFEST
    if not path.exists():
        if any(folder.iterdir()):
            raise ValueError(
                f"storage={str(folder)!r} has files but no {MANIFEST}. Expected an empty folder, "
                "or one that an earlier fit has written."
            )
        _write(path, lambda file: file.write(json.dumps(wanted, indent=1).encode()))
        return wanted
    found = json.loads(path.read_text(encoding="utf-8"))
    # Parts of other sizes hold the same rows.
    compared = [name for name in wanted if name != "edges"]
    others = [name for name in compared if not _same(found.get(name), wanted[name])]
    if others or found["edges"][-1] != wanted["edges"][-1]:
        names = ", ".join(others or ["number of rows"])
        raise ValueError(
            f"storage={str(folder)!r} holds the rows of another fit: it differs in {names}. "
            "Expected an empty folder, or that of a fit with the same data, model, sketch and "
            "versions; remove it, or give another folder."
        )
    return found


def _same(found, wanted):
    if isinstance(wanted, list) and wanted and isinstance(wanted[0], float):
        found, wanted = np.array(found, dtype=float), np.array(wanted)
        close = SAME * np.abs(wanted).max()
        return found.shape == wanted.shape and bool((np.abs(found - wanted) <= close).all())
    return found == wanted


def _path(folder, position):
    return folder / f"part-{position:06d}.npy"


def _is_whole(path, shape):
    try:
        return np.load(path, mmap_mode="r").shape == shape
    except (OSError, ValueError, EOFError):
        return False


def _write(path, save):
    """Write a file beside its place, and rename it once all of it is on the disk."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(beside, "wb") as file:
        save(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _read(folder, edges, layout, samples):
    """Rows of some samples, an index array."""
    parts = np.searchsorted(edges, samples, side="right") - 1
    out = np.empty((len(samples), width(layout)))
    for i in np.unique(parts):
        path, places = _path(folder, i), parts == i
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing, which a fit with storage={str(folder)!r} has written. "
                "Expected the folder as it was; fit again to make its parts anew."
            )
        out[places] = np.load(path, mmap_mode="r")[samples[places] - edges[i]]
    return unpacked(layout, out)


# ---------------------------------------------------------------------------
# Rows as one table, (n_samples, width)
# ---------------------------------------------------------------------------


@singledispatch
def packed(rows):
    """Layout of rows, for JSON, and the numbers that stand for each sample.

    Parameters
    ----------
    rows : Rows
        Rows of any kind; those without a form of their own are written out.

    Returns
    -------
    layout : dict
        What `unpacked` needs.
    array : ndarray of shape (n_samples, width)
        Numbers of each sample.
    """
    array = rows.toarray()
    shape = [rows.rows_per_sample, rows.n_columns]
    return {"kind": "dense", "shapes": [shape]}, array.reshape(rows.n_samples, -1)


@packed.register
def _(rows: KroneckerRows):
    activation = rows.activation
    activation = activation.toarray() if sp.issparse(activation) else np.asarray(activation)
    factors = [rows.residual, activation]
    has_own = rows.has_bias and not rows.is_layer
    factors += [rows.intercept_columns] if has_own else []
    bias = "own" if has_own else "residual" if rows.has_bias else "none"
    return _table("kronecker", factors, bias=bias)


@packed.register
def _(rows: SharedRows):
    if rows.scale is not None or sp.issparse(rows.activation):
        return packed.dispatch(object)(rows)
    activation = rows.activation.reshape(rows.n_samples, rows.n_positions, -1)
    return _table("shared", [rows.residual, activation], bias=bool(rows.has_bias))


@packed.register
def _(rows: TokenRows):
    if rows.scale is not None:
        return packed.dispatch(object)(rows)
    return _table("tokens", [rows.residual, rows.tokens], n_tokens=rows.n_tokens)


@packed.register
def _(rows: BlockRows):
    pairs = [packed(block) for block in rows.blocks]
    layout = {"kind": "blocks", "blocks": [layout for layout, _ in pairs]}
    return layout, np.concatenate([array for _, array in pairs], axis=1)


def _table(kind, factors, **more):
    shapes = [list(factor.shape[1:]) for factor in factors]
    flat = [np.asarray(factor).reshape(len(factor), -1) for factor in factors]
    return {"kind": kind, "shapes": shapes, **more}, np.concatenate(flat, axis=1)


def width(layout):
    """Numbers that stand for a sample."""
    if layout["kind"] == "blocks":
        return sum(map(width, layout["blocks"]))
    return sum(int(np.prod(shape)) for shape in layout["shapes"])


def unpacked(layout, array):
    """Rows from their layout and their table, see `packed`."""
    if layout["kind"] == "blocks":
        edges = np.cumsum([width(block) for block in layout["blocks"]])[:-1]
        tables = np.split(array, edges, axis=1)
        return BlockRows(map(unpacked, layout["blocks"], tables))
    shapes = layout["shapes"]
    edges = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    factors = [
        table.reshape(len(array), *shape)
        for table, shape in zip(np.split(array, edges, axis=1), shapes, strict=True)
    ]
    return _KINDS[layout["kind"]](layout, *factors)


def _dense(layout, cube):
    (s, p), n = cube.shape[1:], len(cube)
    return DenseRows(cube.reshape(n * s, p), s)


def _kronecker(layout, residual, activation, intercept_columns=None):
    return KroneckerRows(
        residual, activation, residual if layout["bias"] == "residual" else intercept_columns
    )


def _shared(layout, residual, activation):
    n, t, d = activation.shape
    return SharedRows(residual, activation.reshape(n * t, d), layout["bias"])


def _tokens(layout, residual, tokens):
    return TokenRows(residual, tokens.astype(np.intp), layout["n_tokens"])


_KINDS = {"dense": _dense, "kronecker": _kronecker, "shared": _shared, "tokens": _tokens}
