"""Functions that read the parts of arrays, dask collections and Parquet files."""

from functools import partial


def array_parts(X, y, sample_weight, chunk_size):
    """Functions that read slices of arrays; see `Chunks.from_array`."""
    if not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"chunk_size must be an integer of at least 1. Got {chunk_size!r}.")
    slices = [slice(i, i + chunk_size) for i in range(0, X.shape[0], chunk_size)]
    return [ArrayPart(X, y, sample_weight, rows) for rows in slices]


class ArrayPart:
    """A function that reads a slice of arrays, and is stored and sent with these rows alone.

    Parameters
    ----------
    X, y, sample_weight : array
        The arrays, weights None without any.
    rows : slice
        The rows.
    """

    def __init__(self, X, y, sample_weight, rows):
        self.arrays = (X, y) if sample_weight is None else (X, y, sample_weight)
        self.rows = rows

    def __call__(self):
        return tuple(array[self.rows] for array in self.arrays)

    def __getstate__(self):
        return {"arrays": self(), "rows": slice(None)}


def dask_parts(X, y, sample_weight):
    """Functions that compute blocks of dask collections; see `Chunks.from_dask`."""
    blocks = [_blocks(X, None)]
    blocks += [_blocks(values, X) for values in (y, sample_weight) if values is not None]
    if len({len(of_one) for of_one in blocks}) > 1:
        raise ValueError(
            f"X has {len(blocks[0])} blocks of rows, and y or sample_weight has another number "
            "of them. Expected the same blocks: repartition them."
        )
    return [partial(_computed, *block) for block in zip(*blocks, strict=True)]


def _blocks(values, like):
    """Delayed blocks of rows, of an array in the blocks of another."""
    if not hasattr(values, "rechunk"):
        return values.to_delayed()
    if values.ndim == 2:
        # All columns are in one block.
        values = values.rechunk({1: -1})
    if hasattr(like, "rechunk"):
        values = values.rechunk({0: like.chunks[0]})
    return values.to_delayed().ravel().tolist()


def _computed(*block):
    return tuple(delayed.compute() for delayed in block)


def parquet_parts(path, target, columns, weight):
    """Functions that read row groups; see `Chunks.from_parquet`."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        names, n_groups = file.schema_arrow.names, file.num_row_groups
    targets = [target] if isinstance(target, str) else list(target)
    others = targets if weight is None else [*targets, weight]
    columns = [name for name in names if name not in others] if columns is None else columns
    missing = [name for name in (*columns, *others) if name not in names]
    if missing:
        raise ValueError(f"The file has no columns {missing}. Expected some of {names}.")
    return [partial(_row_group, path, i, columns, target, weight) for i in range(n_groups)]


def _row_group(path, position, columns, target, weight):
    from pyarrow.parquet import ParquetFile

    targets = [target] if isinstance(target, str) else list(target)
    others = targets if weight is None else [*targets, weight]
    with ParquetFile(path) as file:
        table = file.read_row_group(position, columns=[*columns, *others]).to_pandas()
    part = table[columns], table[target].to_numpy()
    return part if weight is None else (*part, table[weight].to_numpy())
