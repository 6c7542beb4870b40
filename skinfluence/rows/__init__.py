"""Matrices of per-sample gradients that are never written out.

Conventions
-----------
- ``n`` samples with ``s`` rows each, so ``n * s`` rows; gradients have ``s = 1``, factor rows
  (``C`` with ``C'C = F``) have as many as the model has outputs.
- ``c`` outputs, ``d`` inputs, ``f`` intercept columns, ``p = c * d + f`` columns.
- Rows of one sample follow one another: row ``i * s + j`` is the ``j``-th row of sample ``i``.
"""

from skinfluence.rows._activations import weighted_gram
from skinfluence.rows._base import DenseRows, Rows
from skinfluence.rows._chunked import ChunkedFeatures, ChunkedRows
from skinfluence.rows._composed import BlockRows, CombinedRows, SelectedRows, WrappedRows
from skinfluence.rows._features import CentredFeatures, Centring
from skinfluence.rows._kronecker import KroneckerRows, outer_moment
from skinfluence.rows._loops import each, total
from skinfluence.rows._moments import Moments
from skinfluence.rows._shared import SharedRows, layer_rows
from skinfluence.rows._stored import StoredRows
from skinfluence.rows._streamed import StreamedRows
from skinfluence.rows._tensors import TensorRows, written_rows
from skinfluence.rows._token_tensors import TokenTensorRows, token_rows
from skinfluence.rows._tokens import TokenRows

__all__ = [
    "BlockRows",
    "CentredFeatures",
    "Centring",
    "ChunkedFeatures",
    "ChunkedRows",
    "CombinedRows",
    "DenseRows",
    "KroneckerRows",
    "Moments",
    "Rows",
    "SelectedRows",
    "SharedRows",
    "StoredRows",
    "StreamedRows",
    "TensorRows",
    "TokenRows",
    "TokenTensorRows",
    "WrappedRows",
    "each",
    "layer_rows",
    "outer_moment",
    "token_rows",
    "total",
    "weighted_gram",
    "written_rows",
]
