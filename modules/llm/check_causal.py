"""Check that a foreign network predicts each token from earlier ones only.

Shapes: B sequences, S tokens, V words.
"""

import torch
from torch import Tensor, nn

from modules.common.check_net import describe_output, dry_run


def check_causal(net: nn.Module, *, vocab_size: int, length: int) -> None:
    """Run a network on two sequences that differ from their middle on.

    A network that sees the tokens that it is asked for reaches a loss of 0 and has learned nothing.

    Args:
        net: Takes int64 ids (B, S).
        vocab_size: Words of the data; the network may have more. 0: not known.
        length: S, at least 2.

    Raises:
        ValueError: If it fails, returns other shapes or too few words, is not finite, or looks
            ahead; one line.
    """
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    name, words, middle = type(net).__name__, vocab_size or 2, length // 2
    first_S = torch.arange(length, device=device) % words
    ids_BS = torch.stack((first_S, first_S))
    ids_BS[1, middle:] = (ids_BS[1, middle:] + 1) % words
    for training in (True, False):
        mode = " in training" if training else ""
        with dry_run(net, f"{name} fails on 2 sequences of {length} tokens{mode}"):
            logits = net.train(training)(ids_BS)
        if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != ids_BS.shape:
            raise ValueError(
                f"{name} must map ids of shape {tuple(ids_BS.shape)} to logits of shape (2, "
                f"{length}, words){mode}, but returned {describe_output(logits)}"
            )
    if logits.shape[2] < vocab_size:
        raise ValueError(f"{name} knows {logits.shape[2]} words, but the data has {vocab_size}")
    if not logits.isfinite().all():
        raise ValueError(f"{name} returns logits that are not finite, before any training")
    one, other = logits[0, :middle].float(), logits[1, :middle].float()
    # Half precision and kernels that depend on neighbours round differently.
    if not torch.allclose(one, other, rtol=1e-2, atol=1e-2 * float(one.abs().max())):
        raise ValueError(
            f"{name} looks ahead: its logits for a token change with the tokens after it; give it "
            "a causal mask"
        )
