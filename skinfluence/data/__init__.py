"""Training rows that come in pieces."""

from skinfluence.data._chunks import Chunk, Chunks, stacked
from skinfluence.data._training_set import check_alone, gathered, targets, training_set

__all__ = ["Chunk", "Chunks", "check_alone", "gathered", "stacked", "targets", "training_set"]
