"""The curvature of all layers, diagonal in their eigenbases."""

from operator import add

import numpy as np

from skinfluence._utils.namespace import beside, dot, in_double, like, to_numpy, total
from skinfluence._utils.warnings import warn_user
from skinfluence.curvature import Curvature
from skinfluence.curvature._eigenbasis import Eigenbasis
from skinfluence.curvature.kronecker._bases import basis_of
from skinfluence.curvature.kronecker._factors import block_batches
from skinfluence.exceptions import NumericalWarning
from skinfluence.rows import DenseRows, Rows


class RotatedRows(Rows):
    """Rows in the eigenbases of their layers, rotated back only when written out.

    Inner products rotate the factors of the other rows instead where these are small, and else
    rotate back, once.

    Parameters
    ----------
    bases : list of KroneckerBasis, DenseBasis or DiagonalBasis
        Basis of each block of columns.
    parts : list of {ndarray, tensor} of shape (n_rows, ...)
        The blocks in these bases, tensors where the bases are.
    rows_per_sample : int
        Rows of each sample.
    """

    def __init__(self, bases, parts, rows_per_sample):
        self.bases = bases
        self.parts = parts
        self.rows_per_sample = rows_per_sample
        self._columns = {}

    @property
    def n_samples(self):
        return len(self.parts[0]) // self.rows_per_sample

    @property
    def n_columns(self):
        return sum(basis.values.size for basis in self.bases)

    def __getitem__(self, samples):
        index = self.row_index(samples)
        parts = [part[index] for part in self.parts]
        return RotatedRows(self.bases, parts, self.rows_per_sample)

    def toarray(self):
        pairs = zip(self.bases, self.parts, strict=True)
        columns = [to_numpy(basis.unrotated_columns(part)) for basis, part in pairs]
        return np.hstack(columns, dtype=np.float64)

    def inner(self, other, out=None):
        if not _in_blocks(other, self.bases):
            return DenseRows(self.toarray(), self.rows_per_sample).inner(other, out)
        out = np.empty((self.shape[0], other.shape[0])) if out is None else out
        for batch, blocks in block_batches(other):
            terms = (self._dotted(i, block) for i, block in enumerate(blocks))
            out[:, other.row_slice(batch)] = to_numpy(total(terms))
        return out

    def _dotted(self, i, block):
        """Products of the rows with those of a block, (n_rows, n_block_rows)."""
        part, basis = self.parts[i], self.bases[i]
        if block.is_layer and not block.is_shared:
            block, vectors = basis.rotated_rows(block), part.reshape(len(part), -1)
        else:
            if i not in self._columns:
                self._columns[i] = basis.unrotated_columns(part)
            vectors = self._columns[i]
        # Rows that come from a file are arrays.
        return block.dotted_by(vectors if block.holds_tensors else to_numpy(vectors))


def _in_blocks(rows, bases):
    """Whether the blocks of rows match the bases."""
    return len(rows.device_blocks) == len(bases)


class KroneckerCurvature(Curvature):
    """F as one Kronecker product for each layer, diagonal in its eigenbasis.

    Blocks that are no linear layer (norms, a module's own parameters) are dense matrices, or
    diagonal ones. One factorisation serves every damping, which is added to the eigenvalues.

    Parameters
    ----------
    rows : Rows
        Factor rows of the curvature.
    layers : list of LayerMoments, DenseMoment or DiagonalMoment
        Moments of the blocks, as `moments` gives them.
    penalty : ndarray of shape (n_columns,)
        The model's own penalty, which enters by its diagonal in the eigenbasis.
    correction : bool
        Whether the moments of the rows in the eigenbasis replace the eigenvalues.
    """

    def __init__(self, rows, layers, penalty, correction):
        self._edges = np.cumsum([np.prod(layer.shape) for layer in layers])[:-1]
        self.bases = [
            basis_of(layer, own)
            for layer, own in zip(layers, np.split(penalty, self._edges), strict=True)
        ]
        if correction:
            self._correct(rows)
        self._warned = False

    def _correct(self, rows):
        sums = None
        for _, blocks in block_batches(rows):
            pairs = zip(self.bases, blocks, strict=True)
            moments = [in_double(basis.second_moment(block)) for basis, block in pairs]
            sums = moments if sums is None else list(map(add, sums, moments))
        for basis, values in zip(self.bases, sums, strict=True):
            basis.values = to_numpy(values)

    def _split(self, columns):
        return np.split(columns, self._edges, axis=1)

    def _totals(self, damping):
        """Eigenvalues of H in every block, and the size up to which they count as 0."""
        totals = [basis.values + basis.ridge + damping for basis in self.bases]
        largest = max(total.max() for total in totals)
        return totals, np.finfo(np.float64).eps * max(map(np.size, totals)) * largest

    def _inverses(self, damping):
        """``1 / (eigenvalue + ridge)`` of every block, 0 where both vanish."""
        totals, floor = self._totals(damping)
        singular = sum(int((total <= floor).sum()) for total in totals)
        if singular and not self._warned:
            self._warned = True
            warn_user(
                f"The curvature is singular at damping={damping:g} in {singular} of "
                f"{sum(map(np.size, totals))} directions. Influence is taken on its range "
                "(pseudo-inverse). Use damping > 0.",
                NumericalWarning,
            )
        return [
            np.divide(1.0, total, out=np.zeros_like(total), where=total > floor)
            for total in totals
        ]

    def _rotated(self, rows):
        if _in_blocks(rows, self.bases):
            pairs = zip(self.bases, rows.device_blocks, strict=True)
            return [basis.rotated(block) for basis, block in pairs]
        pairs = zip(self.bases, self._split(rows.toarray()), strict=True)
        return [basis.rotated_columns(columns) for basis, columns in pairs]

    def exact_part(self, rows):
        return None

    def solve(self, rows, damping):
        parts = self._rotated(rows[:])
        for part, inverse in zip(parts, self._inverses(damping), strict=True):
            part *= like(inverse, part)
        return RotatedRows(self.bases, parts, rows.rows_per_sample)

    def whiten(self, rows, damping):
        # The symmetric root: the only one that no choice of eigenvectors moves.
        out = np.empty(rows.shape)
        roots = [np.sqrt(inverse) for inverse in self._inverses(damping)]
        for batch in rows.batches():
            pairs = zip(self._rotated(rows[batch]), roots, strict=True)
            white = [part * beside(root, part) for part, root in pairs]
            white = RotatedRows(self.bases, white, rows.rows_per_sample)
            out[rows.row_slice(batch)] = white.toarray()
        return out

    def leverages(self, rows, damping):
        inverses = self._inverses(damping)
        s = rows.rows_per_sample
        out = np.zeros((rows.n_samples, s, s))
        for batch in rows.batches():
            for part, inverse in zip(self._rotated(rows[batch]), inverses, strict=True):
                part = part.reshape(-1, s, inverse.size)
                solved = part * beside(inverse.ravel(), part)
                out[batch] += to_numpy(dot(solved, part.swapaxes(1, 2)))
        return out

    def effective_dimension(self, damping):
        pairs = zip(self.bases, self._inverses(damping), strict=True)
        return float(sum((basis.values * inverse).sum() for basis, inverse in pairs))

    def eigenbasis(self, damping, query=None):
        totals, floor = self._totals(damping)

        def write(rows):
            parts = map(to_numpy, self._rotated(rows))
            return np.hstack([part.reshape(len(part), -1) for part in parts])

        return Eigenbasis(np.concatenate([total.ravel() for total in totals]), floor, write)
