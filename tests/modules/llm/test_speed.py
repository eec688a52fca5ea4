"""Training steps next to transformers' at the same size, as a ratio of alternating pairs."""

import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from modules.llm import GptOssModule, Llama31Module
from modules.llm.net import GptOss, Llama31
from tests.modules.llm.small_nets import llama_of_transformers, qwen_of_transformers

ROUNDS = 9
SHAPE = {"vocab_size": 2000, "hidden_size": 256, "num_layers": 3, "num_heads": 8, "num_kv_heads": 4,
         "head_size": 32}  # fmt: skip
WIDTH = {Llama31: {"intermediate_size": 640},
         GptOss: {"intermediate_size": 128, "num_experts": 8, "experts_per_token": 2,
                  "window": None}}  # fmt: skip
THEIRS: dict[Any, Callable[[nn.Module], Any]] = {
    Llama31: llama_of_transformers,
    GptOss: qwen_of_transformers,
}


def clip_and_step(net: nn.Module, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def their_step(net: nn.Module, batch: torch.Tensor) -> Callable[[], None]:
    """One step as anyone would write it: the library's model, loss and kernels, torch's AdamW."""
    model = THEIRS[type(net)](net)
    model.config._attn_implementation = "sdpa"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.1)

    def step() -> None:
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        clip_and_step(model, loss, optimizer)

    return step


def our_step(net: nn.Module, batch: torch.Tensor) -> Callable[[], None]:
    """Our module's training step with the optimizer that it makes."""
    kind = Llama31Module if isinstance(net, Llama31) else GptOssModule
    module: Any = kind(net=lambda: net, learning_rate=1e-6)
    module.build()
    module._trainer = SimpleNamespace(log_every_n_steps=0)
    optimizer = module.configure_optimizers()["optimizer"]
    return lambda: clip_and_step(net, module.training_step(batch, 0), optimizer)


def seconds(step: Callable[[], None]) -> float:
    start = time.process_time()  # of this process's one thread: neighbours count less
    step()
    return time.process_time() - start


@pytest.mark.speed
@pytest.mark.parametrize("kind", [Llama31, GptOss])
def test_a_step_takes_no_longer_than_transformers(kind):
    """Measured: 0.97 for both, on one thread of an EPYC."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ratio = median_ratio(kind)
    finally:
        torch.set_num_threads(threads)
    print(f"{kind.__name__}: {ratio:.2f} of transformers' time")
    assert ratio <= 1.0


def median_ratio(kind):
    net = kind(**SHAPE, **WIDTH[kind])
    batch = torch.randint(2000, (4, 257), generator=torch.manual_seed(0))
    ours, theirs = our_step(net, batch), their_step(net, batch)
    ours(), theirs()
    ratios = []
    for number in range(ROUNDS):
        order = (ours, theirs) if number % 2 else (theirs, ours)
        taken = {step: seconds(step) for step in order}
        ratios.append(taken[ours] / taken[theirs])
    return statistics.median(ratios)
