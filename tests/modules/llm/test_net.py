"""The decoders: against transformers with the same weights, sizes, first values, windows."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from modules.llm.attention import causal_attention
from modules.llm.net import GptOss, Llama31
from modules.llm.rotary import Rotary, Scaling, inverse_frequencies
from modules.llm.token_losses import token_losses
from tests.modules.llm.small_nets import (
    gpt_oss_of_transformers,
    llama_of_transformers,
    qwen_of_transformers,
    shape_of,
    small,
)


def count(net):
    return sum(weight.numel() for weight in net.parameters())


def meta(kind, **settings):
    with torch.device("meta"):
        return kind(**settings)


def test_closed_networks_have_the_references_parameters():
    # By the formulas of the models' configurations; the last figure is without norms of q and k.
    assert count(meta(Llama31)) == 8_030_261_248
    assert count(meta(GptOss)) == 20_488_418_112
    assert count(meta(GptOss, qk_norm=False)) == 20_488_415_040
    layer = meta(Llama31, num_layers=1).layers[0]
    assert count(layer) == 218_112_000


def test_operations_of_a_closed_sequence_are_those_worked_out_by_hand():
    assert meta(Llama31).train_flops(8192) == 421_651_971_833_856
    assert meta(GptOss).train_flops(8192) == 187_400_391_229_440


def test_operations_are_those_that_torch_counts():
    net = small(Llama31)
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros((2, 30), dtype=torch.long))
    # torch does not count this kernel: two products over the causal pairs of three layers.
    attention = 3 * 2 * 2 * (6 * 8) * (30 * 31 // 2)
    assert counter.get_total_flops() == 2 * (net.train_flops(30) // 3 - attention)


def test_frequencies_are_the_published_ones():
    # transformers 5.24, rope_type llama3, and the unscaled figure of pair 29.
    scaled, plain = inverse_frequencies(128, 5e5, Scaling()), inverse_frequencies(128, 5e5)
    golden = {28: 3.2114461e-3, 29: 2.1665706e-3, 32: 5.2484602e-4, 35: 9.5562122e-5,
              63: 3.0689259e-7}  # fmt: skip
    for pair, value in golden.items():
        assert float(scaled[pair]) == pytest.approx(value, rel=2e-7)
    assert float(plain[29]) == pytest.approx(2.6160991e-3, rel=2e-7)
    assert torch.equal(scaled[:29], plain[:29])
    assert torch.equal(scaled[35:], plain[35:] / 8)


def test_frequencies_stay_in_single_precision():
    rotary = Rotary(8, 1e4).to(torch.bfloat16)
    assert rotary.frequencies.dtype == torch.float32


def ids_of(net, batch=2, length=41):
    return torch.randint(net.vocab_size, (batch, length), generator=torch.manual_seed(1))


def gradients(loss, net):
    net.zero_grad()
    loss.backward()
    return {name: weight.grad for name, weight in net.named_parameters()}


@pytest.mark.parametrize(
    ("kind", "settings", "theirs"),
    [
        (Llama31, {}, llama_of_transformers),
        (GptOss, {"window": None}, qwen_of_transformers),
    ],
)
def test_logits_loss_and_gradients_are_those_of_transformers(kind, settings, theirs):
    net = small(kind, **settings)
    other = theirs(net)
    ids = ids_of(net)
    inputs, labels = ids[:, :-1], ids[:, 1:]
    expected = other(input_ids=inputs, use_cache=False).logits
    torch.testing.assert_close(net(inputs), expected, rtol=1e-5, atol=1e-5)
    # Their loss shifts the labels by itself and so drops the last one.
    whole = other(input_ids=ids, labels=ids, use_cache=False).loss
    losses = net(inputs, labels)
    torch.testing.assert_close(losses.mean(), whole)
    mine, other_gradients = gradients(losses.mean(), net), gradients(whole, other)
    assert len(mine) == len(other_gradients)
    for name, value in mine.items():
        key = name if name == "lm_head.weight" else f"model.{name}"
        torch.testing.assert_close(value, other_gradients[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("window", [4, 7])
def test_a_window_is_that_many_past_tokens_and_the_token_itself(window):
    net = small(GptOss, window=window)
    for layer in net.layers:
        layer.self_attn.window = window
    ids = ids_of(net)
    expected = qwen_of_transformers(net, window)(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(net(ids), expected, rtol=1e-5, atol=1e-5)
    wider = qwen_of_transformers(net, window + 1)(input_ids=ids, use_cache=False).logits
    assert (net(ids) - wider).abs().max() > 1e-3


@pytest.mark.parametrize("length", [1, 6, 7, 41])
def test_alternating_windows_are_those_of_openais_network_without_its_extras(length):
    net = small(GptOss, window=5, qk_norm=False, norm_eps=1e-5)
    other = gpt_oss_of_transformers(net)
    ids = ids_of(net, length=length)
    expected, found = other(input_ids=ids, use_cache=False).logits, net(ids)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert [layer.self_attn.window for layer in net.layers] == [5, None, 5]
    mine, theirs = (gradients(logits.square().mean(), model)
                    for logits, model in ((found, net), (expected, other)))  # fmt: skip
    for name, value in mine.items():
        if "experts" not in name:  # stored otherwise there
            key = name if name == "lm_head.weight" else f"model.{name}"
            key = key.replace("mlp.gate.", "mlp.router.")
            torch.testing.assert_close(value, theirs[key], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("length", [1, 5, 6, 7, 15, 16, 33])
def test_windowed_attention_and_its_gradient_are_those_of_full_attention_with_a_mask(length):
    torch.manual_seed(length)
    heads = [torch.randn(2, count, length, 8, requires_grad=True) for count in (6, 2, 2)]
    place = torch.arange(length)
    seen = (place[:, None] >= place) & (place[:, None] - place <= 5)
    whole = F.scaled_dot_product_attention(*heads, attn_mask=seen, enable_gqa=True)
    found = causal_attention(*heads, 5)
    torch.testing.assert_close(found, whole)
    expected = torch.autograd.grad(whole.square().sum(), heads)
    for mine, theirs in zip(
        torch.autograd.grad(found.square().sum(), heads), expected, strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_windowed_attention_holds_no_square_of_the_length(monkeypatch):
    shapes = []
    attend = F.scaled_dot_product_attention

    def watched(query, key, value, **settings):
        shapes.append((query.shape, key.shape, settings["attn_mask"].shape))
        return attend(query, key, value, **settings)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    heads = torch.zeros(1, 2, 4096, 4)
    causal_attention(heads, heads, heads, 128)
    ((query, key, mask),) = shapes
    assert query[2] * key[2] * query[0] == 4096 * 256
    assert mask.numel() == 4096 * 256


def test_loss_in_parts_is_the_loss_of_all_logits_and_so_is_its_gradient():
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    labels = torch.randint(30, (50,))
    found = []
    for most in (30 * 50, 30 * 7, 1):
        losses = token_losses(hidden, weight, labels, most_logits=most)
        found.append((losses, *torch.autograd.grad(losses.square().sum(), (hidden, weight))))
    expected = F.cross_entropy(hidden @ weight.T, labels, reduction="none")
    torch.testing.assert_close(found[0][0], expected)
    for other in found[1:]:
        for mine, theirs in zip(other, found[0], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)


class Sizes(TorchDispatchMode):
    """Notes how many numbers each operation returns, those of the backward pass too."""

    largest = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        tensors = result if isinstance(result, tuple | list) else (result,)
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


def test_loss_in_parts_keeps_few_logits_and_never_makes_more():
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(100, 4, requires_grad=True)
    with Sizes() as sizes, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = token_losses(hidden, weight, torch.zeros(64, dtype=torch.long), most_logits=800)
        losses.sum().backward()
    # The backward pass keeps one part's logits again, and no operation makes more.
    assert max(kept) <= 800
    assert sizes.largest == 800
    with Sizes() as sizes:
        token_losses(hidden, weight, torch.zeros(64, dtype=torch.long)).sum().backward()
    assert sizes.largest == 64 * 100


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("kind", [Llama31, GptOss])
def test_recomputed_layers_change_nothing_but_memory(kind, every):
    whole, again = small(kind), small(kind, recompute_every=every)
    ids = ids_of(whole)
    first = gradients(whole(ids, ids).mean(), whole)
    second = gradients(again(ids, ids).mean(), again)
    assert [layer.recompute for layer in again.layers] == [i % every == 0 for i in range(3)]
    for name, value in first.items():
        assert torch.equal(value, second[name])


# First values.


@pytest.mark.parametrize(
    ("kind", "std", "first_loss"),
    # ln V plus half the variance of the logits: the norm's outputs have a mean square of 1.
    [(Llama31, 0.02, 12.58), (GptOss, 0.008, 11.854)],
)
def test_first_weights_are_the_references(kind, std, first_loss):
    torch.manual_seed(0)
    width = {Llama31: 4096, GptOss: 2880}[kind]
    assert math.log(128_256) + std**2 * width / 2 == pytest.approx(first_loss, abs=1e-3)
    net = kind(**shape_small(kind), num_layers=2)
    reduced = std / math.sqrt(2 * 2)
    for name, weight in net.named_parameters():
        if "norm" in name:
            assert (weight == 1).all()
            continue
        wanted = reduced if "o_proj" in name or "down_proj" in name else std
        assert float(weight.detach().std()) == pytest.approx(wanted, rel=0.1), name
        assert abs(float(weight.detach().mean())) < 0.1 * wanted
    ids = ids_of(net, batch=4, length=100)
    expected = math.log(net.vocab_size) + std**2 * 256 / 2
    loss = net(ids, ids.roll(-1, 1)).mean().detach()
    assert float(loss) == pytest.approx(expected, abs=0.05)


def shape_small(kind):
    shape = {"vocab_size": 2000, "hidden_size": 256, "num_heads": 4, "num_kv_heads": 2,
             "head_size": 32, "intermediate_size": 64}  # fmt: skip
    return shape | ({"num_experts": 4, "experts_per_token": 2} if kind is GptOss else {})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_heads": 6, "num_kv_heads": 4}, "num_heads 6 is not a multiple"),
        ({"head_size": 7}, "head_size must be even, got 7"),
        ({"experts_per_token": 9}, r"experts_per_token must be in \[1, 5\], got 9"),
        ({"window": 0}, "window must be at least 1, got 0"),
    ],
)
def test_sizes_that_do_not_fit_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        small(GptOss, **settings)


def test_an_empty_batch_has_an_empty_loss():
    for kind in (Llama31, GptOss):
        net = small(kind, **({"window": 4} if kind is GptOss else {}))
        empty = torch.zeros((0, 12), dtype=torch.long)
        assert net(empty, empty).shape == (0, 12)
    assert shape_of(net)["head_dim"] == 8
