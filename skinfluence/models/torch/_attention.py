"""Attention whose projections are layers of their own.

MultiheadAttention multiplies with slices of one weight and calls no layer, so that nothing tells
the inputs of its weights. In the copies below each projection is called as a layer, which keeps
no parameter of its own: it looks up its slice whenever it is called.
"""

import torch
from torch import nn
from torch.nn import functional as F

# Name of each projection, its weight where the inputs have one width, and otherwise.
PROJECTIONS = {"query": "q_proj_weight", "key": "k_proj_weight", "value": "v_proj_weight"}


class Projection(nn.Module):
    """A projection of an attention.

    Parameters
    ----------
    attention : MultiheadAttention
        Owner of the parameters.
    position : int
        Which of query, key and value is projected.
    name : str
        Name of the weight where each projection has its own.
    """

    def __init__(self, attention, position, name):
        super().__init__()
        # Inside a tuple, the owner is no submodule of its own part.
        self.owner = (attention,)
        size = attention.embed_dim
        self.slice = slice(position * size, (position + 1) * size)
        self.is_packed = attention.in_proj_weight is not None
        self.name = "in_proj_weight" if self.is_packed else name

    @property
    def weight(self):
        """The parameter of which this projection uses `weight_slice`."""
        return getattr(self.owner[0], self.name)

    @property
    def weight_slice(self):
        """Rows of the weight."""
        return self.slice if self.is_packed else slice(0, len(self.weight))

    @property
    def bias(self):
        """The parameter of which this projection uses `bias_slice`, or None."""
        return self.owner[0].in_proj_bias

    @property
    def bias_slice(self):
        """Numbers of the bias."""
        return self.slice

    def forward(self, x):
        """Projected vectors."""
        bias = None if self.bias is None else self.bias[self.bias_slice]
        return F.linear(x, self.weight[self.weight_slice], bias)


class SplitAttention(nn.MultiheadAttention):
    """An attention that calls its projections as layers."""

    def forward(
        self,
        query,
        key,
        value,
        key_padding_mask=None,
        need_weights=True,
        attn_mask=None,
        average_attn_weights=True,
        is_causal=False,
    ):
        """The outputs and weights of MultiheadAttention, without dropout."""
        is_batch = query.dim() == 3
        if not is_batch:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        n, t, _ = query.shape
        q, k, v = (
            layer(x).reshape(n, x.shape[1], self.num_heads, self.head_dim).transpose(1, 2)
            for layer, x in (
                (self.in_proj_query, query),
                (self.in_proj_key, key),
                (self.in_proj_value, value),
            )
        )
        scores = q @ k.transpose(2, 3) / self.head_dim**0.5
        scores = scores + _mask(attn_mask, key_padding_mask, scores)
        weights = torch.softmax(scores, dim=-1)
        out = self.out_proj((weights @ v).transpose(1, 2).reshape(n, t, self.embed_dim))
        if not is_batch:
            out = out.squeeze(0)
        elif not self.batch_first:
            out = out.transpose(0, 1)
        if not need_weights:
            return out, None
        weights = weights.mean(dim=1) if average_attn_weights else weights
        return out, weights if is_batch else weights.squeeze(0)


def split_attention(module):
    """Let every MultiheadAttention call its projections as layers.

    Parameters
    ----------
    module : Module
        A copy, which is changed.

    Returns
    -------
    Module
        The same module.
    """
    for attention in list(module.modules()):
        if type(attention) is nn.MultiheadAttention and _is_plain(attention):
            for position, (name, weight) in enumerate(PROJECTIONS.items()):
                attention.add_module(f"in_proj_{name}", Projection(attention, position, weight))
            # A class, unlike a function on the instance, can be pickled.
            attention.__class__ = SplitAttention
    return module


def _is_plain(attention):
    return attention.bias_k is None and not attention.add_zero_attn


def _mask(attn_mask, key_padding_mask, scores):
    """What is added to the scores (n, heads, t, s)."""
    total = 0.0
    if attn_mask is not None:
        mask = _additive(attn_mask, scores.dtype)
        total = mask if mask.dim() == 2 else mask.reshape(scores.shape)
    if key_padding_mask is not None:
        total = total + _additive(key_padding_mask, scores.dtype)[:, None, None]
    return total


def _additive(mask, dtype):
    """A mask of what is left out, as numbers that are added to scores."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
        mask, float("-inf")
    )
