"""Let a network continue a text, for a person to read.

Shapes: B sequences, S tokens, V words.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

TEMPERATURE = 0.8  # of the second of two continuations; the first takes the likeliest tokens


@torch.no_grad()
def continuations(
    net: nn.Module,
    prompts_BS: Tensor,
    num_tokens: int,
    *,
    num_words: int | None = None,
    longest: int | None = None,
) -> Tensor:
    """Continue texts twice: with the likeliest tokens, and with drawn ones.

    Args:
        net: Maps ids (B, S) to logits (B, S, V); it runs on the whole text for every token, and
            stays in evaluation mode.
        prompts_BS: int64 ids; one token at least.
        num_tokens: Tokens to add.
        num_words: Words that may be chosen; None allows all V.
        longest: Most tokens that the network is given, the last ones; None gives all.

    Returns:
        int64 (2, B, num_tokens): likeliest, then drawn at a temperature of 0.8 with a fixed seed.
    """
    net.eval()
    draw = torch.Generator().manual_seed(0)
    texts = prompts_BS.repeat(2, 1)
    batch = len(prompts_BS)
    for _ in range(num_tokens):
        logits = (
            net(texts if longest is None else texts[:, -longest:])[:, -1, :num_words].float().cpu()
        )
        drawn = torch.multinomial((logits[batch:] / TEMPERATURE).softmax(-1), 1, generator=draw)
        chosen = torch.cat((logits[:batch].argmax(-1, keepdim=True), drawn))
        texts = torch.cat((texts, chosen.to(texts.device)), dim=1)
    return texts[:, prompts_BS.shape[1] :].unflatten(0, (2, batch))


def describe_continuations(
    texts_BS: Tensor,
    continued: Tensor,
    prompt_tokens: int,
    decode: Callable[[Sequence[int]], str] | None = None,
) -> str:
    """Return prompts, their continuations and what follows in the data, as text.

    Args:
        texts_BS: Held-out texts: prompts and what follows.
        continued: From ``continuations``.
        prompt_tokens: Tokens of each prompt.
        decode: Turns ids into text; None writes ids.

    Returns:
        A few lines per text.
    """
    read = decode or (lambda ids: " ".join(map(str, ids)))
    lines = ["Held-out texts, and how the network continues them."]
    for number, text in enumerate(texts_BS.tolist()):
        likeliest, drawn = (read(part) for part in continued[:, number].tolist())
        lines += [
            "",
            f"text {number}: {read(text[:prompt_tokens])}",
            f"  likeliest: {likeliest}",
            f"  drawn (temperature {TEMPERATURE}): {drawn}",
            f"  in the data: {read(text[prompt_tokens:])}",
        ]
    return "\n".join(lines) + "\n"
