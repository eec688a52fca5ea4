"""Causal attention over a whole sequence or a window of it, never holding S x S scores.

Shapes: B sequences, S tokens, H query heads, K key and value heads, G = H / K, D numbers per head,
W past keys in the window, N = ceil(S / W) blocks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_attention(
    query_BHSD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor, window: int | None = None
) -> Tensor:
    """Attend to the token itself and the tokens before it.

    Args:
        query_BHSD: Queries; head i reads key head ``i // G``.
        key_BKSD: Keys.
        value_BKSD: Values.
        window: Past tokens that a token sees besides itself; None for all of them.

    Returns:
        mixed_BHSD: Weighted values.
    """
    if window is not None and query_BHSD.shape[2] > window + 1:
        return _windowed(query_BHSD, key_BKSD, value_BKSD, window)
    grouped = query_BHSD.shape[1] != key_BKSD.shape[1]
    return F.scaled_dot_product_attention(
        query_BHSD, key_BKSD, value_BKSD, is_causal=True, enable_gqa=grouped
    )


def _windowed(query_BHSD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor, window: int) -> Tensor:
    """Attend block by block: W queries to the keys of their own and the previous block."""
    batch, heads, length, size = query_BHSD.shape
    kv_heads, blocks = key_BKSD.shape[1], -(-length // window)
    groups, filled = heads // kv_heads, (0, 0, 0, blocks * window - length)
    # The queries of a group become rows of one head: no key is copied, and every kernel takes it.
    query = F.pad(query_BHSD, filled).reshape(batch, kv_heads, groups, blocks, window, size)
    query = query.permute(0, 3, 1, 2, 4, 5).reshape(batch * blocks, kv_heads, groups * window, size)
    key, value = (_with_previous(F.pad(x, filled), window) for x in (key_BKSD, value_BKSD))
    mask = _window_mask(blocks, window, query.device).repeat(batch, 1, groups, 1)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    mixed = mixed.reshape(batch, blocks, kv_heads, groups, window, size).permute(0, 2, 3, 1, 4, 5)
    return mixed.reshape(batch, heads, blocks * window, size)[:, :, :length]


def _with_previous(key_BKSD: Tensor, window: int) -> Tensor:
    """Join each block of W keys to the one before it: (B * N, K, 2 * W, D); zeros at the start."""
    own_BKNWD = key_BKSD.unflatten(2, (key_BKSD.shape[2] // window, window))
    before = F.pad(own_BKNWD, (0, 0, 0, 0, 1, 0))[:, :, :-1]
    return torch.cat((before, own_BKNWD), dim=3).transpose(1, 2).flatten(0, 1)


def _window_mask(blocks: int, window: int, device: torch.device) -> Tensor:
    """Return which of 2 * W keys each query of each block sees: bool (N, 1, W, 2 * W)."""
    query_W1 = torch.arange(window, device=device)[:, None]
    key_2W = torch.arange(2 * window, device=device)
    seen = (key_2W >= query_W1) & (key_2W <= query_W1 + window)
    block_N11 = torch.arange(blocks, device=device)[:, None, None]
    # The first block has none before it.
    return (seen & ((block_N11 > 0) | (key_2W >= window)))[:, None]
