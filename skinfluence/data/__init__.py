"""Training rows that come in pieces."""

from skinfluence.data._chunks import Chunk, Chunks, stacked
from skinfluence.data._training_set import gathered, targets, training_set

__all__ = ["Chunk", "Chunks", "gathered", "stacked", "targets", "training_set"]
