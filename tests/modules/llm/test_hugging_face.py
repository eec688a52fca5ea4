"""Weights to and from transformers' own files, and the options that read them."""

import pytest
import torch
import transformers
from safetensors.torch import save_file

from modules.common.init_weights import load_init_weights
from modules.llm.hugging_face import published_names, save_for_transformers
from modules.llm.net import GptOss, Llama31
from tests.modules.llm.small_nets import llama_of_transformers, qwen_of_transformers, small

PAIRS = [(Llama31, {}, llama_of_transformers), (GptOss, {"window": None}, qwen_of_transformers)]


@pytest.mark.parametrize(("kind", "settings", "theirs"), PAIRS)
def test_files_that_transformers_saved_are_read(kind, settings, theirs, tmp_path):
    net = small(kind, **settings)
    theirs(net).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    fresh = kind(**{**_sizes(kind), **settings})
    count = len(net.state_dict())
    assert load_init_weights(fresh, tmp_path) == f"{count} of {count} tensors from {tmp_path}"
    for name, value in net.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])


@pytest.mark.parametrize(("kind", "settings", "theirs"), PAIRS)
def test_transformers_reads_what_is_saved_for_it(kind, settings, theirs, tmp_path):
    net = small(kind, **settings)
    save_for_transformers(net, tmp_path / "model")
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(other) is type(theirs(net))
    ids = torch.arange(20)[None]
    torch.testing.assert_close(other(ids).logits, net(ids), rtol=1e-5, atol=1e-5)


def test_a_file_that_lacks_an_expert_says_so(tmp_path):
    net = small(GptOss)
    tensors = published_names(net)
    del tensors["model.layers.1.mlp.experts.2.up_proj.weight"]
    save_file(tensors, tmp_path / "cut.safetensors")
    text = load_init_weights(small(GptOss), tmp_path / "cut.safetensors")
    assert "not in the file: layers.1.mlp.experts.gate_up_proj, layers.1.mlp.experts.down" in text


def test_what_transformers_lacks_is_said(tmp_path):
    with pytest.raises(ValueError, match="transformers has no network with alternating windows"):
        save_for_transformers(small(GptOss), tmp_path)


def _sizes(kind):
    from tests.modules.llm.small_nets import LLAMA, MOE

    return LLAMA if kind is Llama31 else MOE
