"""Bags of embeddings that look up their tokens by a layer of its own.

EmbeddingBag returns one sum for all tokens of a sample. In the copies below it calls an embedding,
and adds up what that returns, so that each token has its own row.
"""

from torch import nn
from torch.nn import functional as F


class Lookup(nn.Module):
    """The embedding of a bag, which keeps no parameter of its own.

    Parameters
    ----------
    bag : EmbeddingBag
        Owner of the weight.
    """

    def __init__(self, bag):
        super().__init__()
        # Inside a tuple, the owner is no submodule of its own part.
        self.owner = (bag,)
        self.num_embeddings = bag.num_embeddings
        self.padding_idx = bag.padding_idx

    @property
    def weight(self):
        """The weight of the bag."""
        return self.owner[0].weight

    def forward(self, tokens):
        """Vectors of tokens."""
        return F.embedding(tokens, self.weight, self.padding_idx)


class SplitBag(nn.EmbeddingBag):
    """A bag that looks up its tokens by a layer, where all bags have one length."""

    def forward(self, input, offsets=None, per_sample_weights=None):
        """The outputs of EmbeddingBag."""
        if offsets is not None or input.dim() != 2:
            return super().forward(input, offsets, per_sample_weights)
        vectors = self.lookup(input)
        counts = input != (-1 if self.padding_idx is None else self.padding_idx)
        shares = counts.to(vectors.dtype)
        if per_sample_weights is not None:
            shares = shares * per_sample_weights
        if self.mode == "mean":
            shares = shares / counts.sum(1, keepdim=True).clamp(min=1)
        return (vectors * shares[..., None]).sum(1)


def split_bags(module):
    """Let every EmbeddingBag that adds or averages look up its tokens by a layer.

    Parameters
    ----------
    module : Module
        A copy, which is changed.

    Returns
    -------
    Module
        The same module.
    """
    for bag in list(module.modules()):
        if type(bag) is nn.EmbeddingBag and bag.mode != "max" and bag.max_norm is None:
            bag.add_module("lookup", Lookup(bag))
            # A class, unlike a function on the instance, can be pickled.
            bag.__class__ = SplitBag
    return module
