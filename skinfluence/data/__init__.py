"""Training rows that come in pieces."""

from skinfluence.data._chunks import Chunk, Chunks, stacked

__all__ = ["Chunk", "Chunks", "stacked"]
