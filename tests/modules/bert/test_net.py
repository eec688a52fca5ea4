"""BERT equals transformers' own with the same weights, and packing changes nothing but the time."""

import sys
import time
from unittest.mock import patch

import pytest
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from modules.bert.checkpoint import load_checkpoint
from modules.bert.masked_lm import masked_lm_loss
from modules.bert.net import Bert
from modules.bert.transformers_adapter import MaskedLMAdapter
from modules.bert.varlen_attention import plan_attention, varlen_attention

SMALL = {"vocab_size": 97, "hidden_size": 32, "num_layers": 3, "num_heads": 4,
         "intermediate_size": 64, "max_positions": 40}  # fmt: skip


def packed(lengths, vocab_size=97, seed=0, share=0.15):
    """Random packed sequences."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    position = torch.cat([torch.arange(n) for n in lengths])
    segment = torch.cat([(torch.arange(n) >= n // 2).long() for n in lengths])
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    masked, samples = [], []
    for number, (start, n) in enumerate(zip(starts.tolist(), lengths, strict=False)):
        count = max(1, round(n * share))
        masked.append(start + torch.randperm(n, generator=generator)[:count].sort().values)
        samples += [number] * count
    masked = torch.cat(masked)
    return {
        # Not 0: transformers gives the padding word's vector no gradient, the reference does.
        "input_ids": torch.randint(1, vocab_size, (total,), generator=generator),
        "segment_ids": segment,
        "position_ids": position,
        "cu_seqlens": starts,
        "masked_index": masked,
        "masked_labels": torch.randint(0, vocab_size, masked.shape, generator=generator),
        "masked_samples": torch.tensor(samples),
        "random_next": torch.randint(0, 2, (len(lengths),), generator=generator),
        "index": torch.arange(len(lengths)),
    }


def inputs(batch):
    names = ("input_ids", "segment_ids", "position_ids", "cu_seqlens", "masked_index")
    return [batch[name] for name in names]


def loss_of(net, batch):
    words, nexts = net(*inputs(batch))
    return masked_lm_loss(words, batch["masked_labels"]) + cross_entropy(
        nexts, batch["random_next"]
    )


def theirs(config=None, **settings):
    from transformers import BertConfig, BertForPreTraining

    config = BertConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=40, hidden_act="gelu_new",
        layer_norm_eps=1e-12, **settings,
    )  # fmt: skip
    return BertForPreTraining(config)


@pytest.fixture
def pair(tmp_path):
    """transformers' BERT behind the adapter, and ours with its weights, both evaluating."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    reference = theirs()
    with torch.no_grad():  # biases and norms start trivial; a swap of two would go unnoticed
        for weight in reference.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    state = {k: v.contiguous().clone() for k, v in reference.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    ours = Bert(**SMALL)
    load_checkpoint(ours, tmp_path / "model.safetensors")
    adapter = MaskedLMAdapter(model="BertForPreTraining", config={"num_hidden_layers": 0})
    adapter.model = reference
    return ours.eval(), adapter.eval()


LENGTHS = [40, 7, 22, 39, 5, 31, 31]


def test_outputs_equal_transformers_with_the_same_weights(pair):
    ours, adapter = pair
    batch = packed(LENGTHS)
    for mine, other in zip(ours(*inputs(batch)), adapter(*inputs(batch)), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_loss_and_gradients_equal_the_padded_computation(pair):
    ours, adapter = pair
    batch = packed(LENGTHS)
    mine, other = loss_of(ours, batch), loss_of(adapter, batch)
    mine.backward()
    other.backward()
    torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    reference = adapter.model.bert
    layer, last = ours.layers[1], reference.encoder.layer[1]
    for got, wanted in (
        (ours.embeddings.word.weight, reference.embeddings.word_embeddings.weight),
        (ours.embeddings.position.weight, reference.embeddings.position_embeddings.weight),
        (layer.query.weight, last.attention.self.query.weight),
        (layer.down.bias, last.output.dense.bias),
        (ours.pooler.weight, reference.pooler.dense.weight),
        (ours.output_bias, adapter.model.cls.predictions.bias),
    ):
        torch.testing.assert_close(got.grad, wanted.grad, atol=1e-5, rtol=1e-5)


def test_other_gelu_or_epsilon_would_be_noticed(pair):
    ours, adapter = pair
    batch = packed(LENGTHS)
    wanted = adapter(*inputs(batch))[0]
    with patch("modules.bert.net.F.gelu", lambda x, approximate: torch.nn.functional.relu(x)):
        assert not torch.allclose(ours(*inputs(batch))[0], wanted, atol=1e-5)
    for module in ours.modules():
        if isinstance(module, torch.nn.LayerNorm):
            assert module.eps == 1e-12


@pytest.mark.parametrize("lengths", [[5], [8, 8, 8], LENGTHS, [1, 40, 2, 40]])
@pytest.mark.parametrize("nested", [False, True])
def test_attention_equals_one_sequence_at_a_time(lengths, nested):
    torch.manual_seed(0)
    total = sum(lengths)
    q, k, v = (torch.randn(total, 4, 8, requires_grad=True) for _ in range(3))
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    result = varlen_attention(q, k, v, plan_attention(starts, 40, nested=nested))
    rows = []
    for a, b in zip(starts[:-1], starts[1:], strict=True):
        one = [x[a:b].transpose(0, 1) for x in (q, k, v)]
        rows.append(scaled_dot_product_attention(*one).transpose(0, 1))
    wanted = torch.cat(rows)
    torch.testing.assert_close(result, wanted, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(wanted)
    got = torch.autograd.grad((result * weight).sum(), (q, k, v))
    expected = torch.autograd.grad((wanted * weight).sum(), (q, k, v))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


class Kernels(TorchDispatchMode):
    """Notes the attention kernels that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "attention" in func.name():
            self.names.append(func.name().removeprefix("aten::_"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("dtype", "kernel"),
    [(torch.bfloat16, "flash_attention"), (torch.float32, "efficient_attention")],
)
def test_on_a_gpu_one_kernel_takes_all_sequences(dtype, kernel):
    parts = [torch.randn(90, 4, 8, dtype=dtype, device="meta", requires_grad=True) for _ in "qkv"]
    starts = torch.zeros(4, dtype=torch.int32, device="meta")
    with Kernels() as kernels:
        plan = plan_attention(starts, 40, nested=True)
        result = varlen_attention(*parts, plan, dropout=0.1)
        result.sum().backward()
    assert kernels.names == [f"{kernel}_forward", f"{kernel}_backward"]
    assert result.dtype == dtype
    assert all(part.grad.shape == result.shape for part in parts)


def test_samples_do_not_see_each_other():
    torch.manual_seed(0)
    net = Bert(**SMALL).eval()
    alone, together = packed([12]), packed([12, 30])
    for name in ("input_ids", "masked_index"):
        together[name][: len(alone[name])] = alone[name]
    words = net(*inputs(together))[0][: len(alone["masked_index"])]
    torch.testing.assert_close(words, net(*inputs(alone))[0], atol=1e-5, rtol=1e-5)


def test_parameter_count_and_flops_of_bert_large():
    with torch.device("meta"):
        net = Bert()
    assert sum(p.numel() for p in net.parameters()) == 336_226_108
    from torch.utils.flop_counter import FlopCounterMode

    small = Bert(**SMALL, dropout=0.0, attention_dropout=0.0)
    batch = packed([24, 24])
    with FlopCounterMode(display=False) as counter:
        loss_of(small, batch).backward()
    counted = counter.get_total_flops()
    analytic = small.train_flops([24, 24], batch["masked_index"].numel())
    # On a CPU torch does not count fused attention: 3 x 4 x S^2 x C per sequence and layer.
    fused = 3 * 4 * 2 * 24**2 * 32 * 3
    assert analytic == pytest.approx(counted, rel=0.02) or analytic - fused == pytest.approx(
        counted, rel=0.02
    )


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ElectraForMaskedLM", {"embedding_size": 16}),
        ("ModernBertForMaskedLM", {}),  # its own padding word is number 50,283
        ("DebertaV2ForMaskedLM", {}),
    ],
)  # fmt: skip
def test_other_masked_language_models_fit(name, config):
    shape = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2,
             "num_attention_heads": 4, "intermediate_size": 64}  # fmt: skip
    net = MaskedLMAdapter(model=name, config={**shape, **config})
    batch = packed([20, 9])
    words, nexts = net(*inputs(batch))
    assert words.shape == (len(batch["masked_index"]), 97)
    assert nexts is None
    masked_lm_loss(words, batch["masked_labels"]).backward()


def test_adapters_wrong_settings_are_rejected(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'NoSuchModel', which is not a model"):
        MaskedLMAdapter(model="NoSuchModel")
    with pytest.raises(ValueError, match="ElectraConfig has no vocab_siz"):
        MaskedLMAdapter(model="ElectraForMaskedLM", config={"vocab_siz": 9})
    with pytest.raises(FileNotFoundError, match="no config.json"):
        MaskedLMAdapter(model="ElectraForMaskedLM", pretrained=tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="needs the transformers library; pip install"):
        MaskedLMAdapter(model="ElectraForMaskedLM")


def test_adapter_starts_from_saved_weights(tmp_path):
    shape = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1, "embedding_size": 16,
             "num_attention_heads": 4, "intermediate_size": 64}  # fmt: skip
    saved = MaskedLMAdapter(model="ElectraForMaskedLM", config=shape).eval()
    saved.model.save_pretrained(tmp_path)
    loaded = MaskedLMAdapter(model="ElectraForMaskedLM", pretrained=tmp_path)
    assert all(part.training for part in loaded.modules())  # with dropout, as one from scratch
    loaded.eval()
    batch = packed([20, 9])
    assert torch.equal(loaded(*inputs(batch))[0], saved(*inputs(batch))[0])


# Mean length of a sample: 13 GB of text are about 3.0e9 word pieces; 156.8 million samples in ten
# passes, each using up about three quarters of its length: 3.0e9 / 15.68e6 / 0.75 = 255 of 512.
def lengths_of_the_spec(count):
    shares = [(n + 0.5) / count for n in range(count)]
    return [512 if s > 2 / 3 else int(12 + 230 * s * 1.5) for s in shares]


@pytest.mark.speed
@pytest.mark.slow
def test_step_is_faster_than_transformers_padded_one():
    width = {"vocab_size": 2000, "hidden_size": 256, "intermediate_size": 1024}
    ours = Bert(
        **width, num_layers=2, num_heads=4, max_positions=512, dropout=0, attention_dropout=0
    )
    from transformers import BertConfig, BertForPreTraining

    config = BertConfig(
        **width, num_hidden_layers=2, num_attention_heads=4, hidden_act="gelu_new",
        hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    reference = BertForPreTraining(config)
    lengths = lengths_of_the_spec(12)
    batch = packed(lengths, 2000)
    rows = torch.repeat_interleave(torch.arange(12), torch.tensor(lengths))
    place = (rows, batch["position_ids"])
    ids = torch.zeros(12, 512, dtype=torch.long).index_put(place, batch["input_ids"])
    mask = torch.zeros(12, 512, dtype=torch.long).index_put(place, torch.ones(len(rows)).long())
    segments = torch.zeros(12, 512, dtype=torch.long).index_put(place, batch["segment_ids"])
    labels = torch.full((12, 512), -100)
    at = batch["masked_index"]
    labels[rows[at], batch["position_ids"][at]] = batch["masked_labels"]

    def our_step():
        loss_of(ours, batch).backward()

    def their_step():
        reference(
            input_ids=ids, attention_mask=mask, token_type_ids=segments, labels=labels,
            next_sentence_label=batch["random_next"],
        ).loss.backward()  # fmt: skip

    def seconds(step):
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    our_step(), their_step()
    mine = min(seconds(our_step) for _ in range(3))
    other = min(seconds(their_step) for _ in range(3))
    mean = sum(lengths) / len(lengths)
    print(f"\nstep {other / mine:.2f} times faster than padded, mean length {mean:.0f} of 512")
    assert other / mine >= 1.3
