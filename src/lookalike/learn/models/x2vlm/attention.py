"""Attention through PyTorch's fused kernel, and the layers' activations kept or computed again."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (everyone's name for it)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor, dropout: float = 0.0
) -> Tensor:
    """(B, Q, D), (B, K, D), (B, K, D) -> (B, Q, D).

    `bias` is added to the scores and may be any shape that broadcasts to theirs, (B, heads, Q, K).
    On a CPU PyTorch fuses only where no gradient of `bias` is asked for: inference gains, training does not.
    """

    def split(tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:2], heads, tokens.shape[-1] // heads).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(
        split(query), split(key), split(value), attn_mask=bias.to(query.dtype), dropout_p=dropout
    )
    return mixed.transpose(1, 2).flatten(2)


def attend_once(
    query: Tensor, seen: Tensor, key: nn.Linear, value: nn.Linear, heads: int, bias: Tensor, dropout: float
) -> Tensor:
    """What `attend` makes of one query (B, 1, D) and of key(seen), value(seen), seen (B, K, W) -> (B, 1, D).

    `key` and `value` are linear. They move from the K tokens to the one query and to the one mixture, so
    that no token is projected; the bias of `key` adds the same to all scores and so drops out.
    """
    depth = query.shape[-1] // heads
    split = query.view(len(query), heads, depth)
    into_key, into_value = (each.weight.view(heads, depth, -1) for each in (key, value))
    asked = torch.einsum("bhd,hdw->bhw", split, into_key) * depth**-0.5
    shares = F.dropout((asked @ seen.transpose(1, 2) + bias[:, :, 0]).softmax(dim=-1), dropout)
    mixed = torch.einsum("bhw,hdw->bhd", shares @ seen, into_value)
    whole = shares.sum(dim=-1, keepdim=True)  # 1 but for dropout
    attended: Tensor = (mixed + whole * value.bias.view(heads, depth)).flatten(1)[:, None]
    return attended


def hiding(mask: Tensor, depth: float, dtype: torch.dtype) -> Tensor:
    """Mask (B, K) of 1 (seen) and 0 (hidden) -> what is added to the scores, (B, 1, 1, K): 0 or -depth.

    Half precision ends at 65504: there it is at most 10,000. Where all is hidden, all counts alike.
    """
    deepest = min(depth, 1e4) if dtype == torch.float16 else depth
    return ((1 - mask.to(dtype)) * -deepest)[:, None, None, :]


def run(layer: Callable[..., Tensor], *inputs: Tensor | int | None, recompute: bool) -> Tensor:
    """The layer's output; with `recompute` its activations are not kept for the backward pass."""
    if recompute and torch.is_grad_enabled():
        kept: Tensor = checkpoint(layer, *inputs, use_reentrant=False)
        return kept
    return layer(*inputs)
