"""The arithmetic of a step's memory: what autograd keeps, and what the recipes state."""

import importlib

import pytest
import torch
from torch import nn

from modules.llm.net import GptOss, Llama31
from modules.llm.step_memory import kept_numbers, step_bytes

SMALL = {"vocab_size": 64, "hidden_size": 128, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2,
         "head_size": 32}  # fmt: skip
TOKENS = 64


@pytest.mark.parametrize(
    "net",
    [Llama31(**SMALL, intermediate_size=448),
     GptOss(**SMALL, intermediate_size=128, num_experts=4, experts_per_token=2, window=None)],
    ids=["llama", "gpt_oss"],
)  # fmt: skip
def test_kept_numbers_are_the_least_that_autograd_keeps(net):
    net, kept = net.bfloat16(), {}
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    hidden = torch.randn(1, TOKENS, 128, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        net.layers[0](hidden)
    numbers = sum(size for size, _ in kept.values()) / TOKENS / 2
    # Norms in one kernel keep half-precision inputs; on CPUs float32 copies of them too.
    assert kept_numbers(net.layers[0]) <= numbers <= 1.7 * kept_numbers(net.layers[0])


@pytest.mark.parametrize(("stem", "net"), [("llama31_8b", Llama31), ("gpt_oss_20b", GptOss)])
def test_recipes_state_what_one_sequence_per_device_takes(stem, net):
    with torch.device("meta"):
        whole = net(recompute_every=1)
    training = importlib.import_module(f"recipes.{stem}").BENCHMARK.needs.training
    assert training.parameters == sum(p.numel() for p in whole.parameters())
    facts = step_bytes(whole, 1, 8192)
    assert facts == {name: getattr(training, name) for name in facts}
    one, eight = training.on_each(1) / 1e9, training.on_each(8) / 1e9
    # The specs' sums: about 137 GB on one device for Llama; no single one for GPT-OSS.
    assert one == pytest.approx({"llama31_8b": 137, "gpt_oss_20b": 337}[stem], abs=1.0)
    assert eight < 80


def test_a_recomputed_layer_keeps_its_input_only():
    with torch.device("meta"):
        plain, again = (Llama31(**SMALL, recompute_every=every) for every in (0, 1))
    assert isinstance(plain, nn.Module)
    per_layer = kept_numbers(plain.layers[0])
    assert step_bytes(plain, 2, TOKENS)["activations"] == 2 * 2 * TOKENS * 2 * per_layer
    assert step_bytes(again, 2, TOKENS)["activations"] == 2 * 2 * TOKENS * (2 * 128 + per_layer)
