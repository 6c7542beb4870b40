"""Attention whose projections are layers of their own.

MultiheadAttention multiplies with slices of one weight and calls no layer. In the copies below
each projection is called as one.
"""

import torch
from torch import nn

from skinfluence.models.torch._parts import Part

# Name of each projection, its weight where the inputs have one width, and otherwise.
PROJECTIONS = {"query": "q_proj_weight", "key": "k_proj_weight", "value": "v_proj_weight"}


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
                attention.add_module(f"in_proj_{name}", _projection(attention, position, weight))
            # A class, unlike a function on the instance, can be pickled.
            attention.__class__ = SplitAttention
    return module


def _projection(attention, position, weight):
    size = attention.embed_dim
    share = slice(position * size, (position + 1) * size)
    if attention.in_proj_weight is None:
        return Part(attention, weight, "in_proj_bias", bias_outputs=share)
    return Part(attention, "in_proj_weight", "in_proj_bias", share, share)


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
