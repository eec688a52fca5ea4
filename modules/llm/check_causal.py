"""Check that a foreign network predicts each token from earlier ones only.

Shapes: B sequences, S tokens, V words.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from modules.common.check_net import check_type, describe_output, dry_run

ZERO_WEIGHT_NOISE = 0.02


def check_causal(net: nn.Module, *, vocab_size: int, length: int) -> None:
    """Run a network on two sequences that differ from their middle on, or at their last token.

    A network that sees the tokens that it is asked for reaches a loss of 0 and has learned nothing.

    Args:
        net: Takes int64 ids (B, S).
        vocab_size: Words of the data; the network may have more. 0: not known.
        length: S, at least 2.

    Raises:
        ValueError: If it fails, changes its input, returns other shapes or types or too few words,
            is not finite, or looks ahead; one line.
    """
    words = vocab_size or 2
    for training in (True, False):
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
        ids_BS = _ids(words, length, length // 2, device)
        logits = _logits(net.train(training), ids_BS)
    if logits.shape[2] < vocab_size:
        name = type(net).__name__
        raise ValueError(f"{name} knows {logits.shape[2]} words, but the data has {vocab_size}")
    # Further words may be masked with -inf: the loss leaves them out.
    if not logits[..., : vocab_size or None].isfinite().all():
        name = type(net).__name__
        raise ValueError(f"{name} returns logits that are not finite, before any training")
    # The last token alone: one in the middle may be at the border of two blocks of a network.
    for first in (length // 2, length - 1):
        _check_before(net, _ids(words, length, first, device), first, vocab_size or None)


def _ids(words: int, length: int, first: int, device: torch.device) -> Tensor:
    """Return two sequences that are equal before the position ``first`` only."""
    first_S = torch.arange(length, device=device) % words
    ids_BS = torch.stack((first_S, first_S))
    ids_BS[1, first:] = (ids_BS[1, first:] + 1) % words
    return ids_BS


def _logits(net: nn.Module, ids_BS: Tensor) -> Tensor:
    name, length, given_BS = type(net).__name__, ids_BS.shape[1], ids_BS.clone()
    mode = " in training" if net.training else ""
    with dry_run(net, f"{name} fails on 2 sequences of {length} tokens{mode}"):
        logits = net(given_BS)
    if not torch.equal(given_BS, ids_BS):
        raise ValueError(
            f"{name} changes its input in place, where the labels are too; let it copy the ids"
        )
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != ids_BS.shape:
        raise ValueError(
            f"{name} must map ids of shape {tuple(ids_BS.shape)} to logits of shape (2, "
            f"{length}, words){mode}, but returned {describe_output(logits)}"
        )
    check_type(name, logits)
    return logits


def _check_before(net: nn.Module, ids_BS: Tensor, first: int, words: int | None) -> None:
    """Raise if logits before the first different token are different."""
    name = type(net).__name__
    failure = f"{name} fails on 2 sequences of {ids_BS.shape[1]} tokens"
    with dry_run(net, failure), _without_zero_weights(net):
        one, other = net(ids_BS.clone())[:, :first, :words].float()
    # Half precision and kernels that depend on neighbours round differently.
    exact = all(p.dtype in (torch.float32, torch.float64) for p in net.parameters())
    tolerance = 1e-3 if exact else 1e-2
    if not torch.allclose(one, other, rtol=tolerance, atol=tolerance * float(one.abs().max())):
        raise ValueError(
            f"{name} looks ahead: its logits for a token change with the tokens after it; give it "
            "a causal mask"
        )


@contextmanager
def _without_zero_weights(net: nn.Module) -> Iterator[None]:
    """Draw the weights that are all 0, which hide what flows through them, and restore them."""
    zeros = [p for p in net.parameters() if p.is_floating_point() and not p.any()]
    try:
        for parameter in zeros:
            nn.init.normal_(parameter, std=ZERO_WEIGHT_NOISE)
        yield
    finally:
        for parameter in zeros:
            nn.init.zeros_(parameter)
