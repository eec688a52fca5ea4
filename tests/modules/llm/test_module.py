"""The modules: rates, first weights, loss and its weights, metric, clipping, checks, samples."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modules.llm import GptOssModule, Llama31Module
from modules.llm.generate import continuations, describe_continuations
from modules.llm.log_perplexity import LogPerplexity
from modules.llm.net import GptOss, Llama31
from tests.modules.llm.small_nets import LLAMA, MOE, small


def module_of(kind=Llama31Module, **settings):
    net = small(GptOss if kind is GptOssModule else Llama31)
    module = kind(net=lambda: net, **settings)
    module.build()
    return module


def batch_of(rows=3, tokens=12, words=97):
    return torch.randint(words, (rows, tokens + 1), generator=torch.manual_seed(2))


# Rates.


def test_llamas_rates_are_nemos():
    # NeMo's WarmupAnnealHoldPolicy by hand, at the reference's settings.
    rate = Llama31Module(learning_rate=4e-4, warmup_steps=16).step_learning_rate
    for step, value in ((0, 2.352941e-5), (16, 4e-4), (10_069, 3.9993766e-4),
                        (12_000, 3.9991141e-4)):  # fmt: skip
        assert rate(step) == pytest.approx(value, rel=1e-7)
    assert rate(1_200_000) == rate(2_000_000) == pytest.approx(4e-5)


def test_gpt_oss_rates_are_megatrons():
    # Step 9000: printed by the reference's own log, rcp_logs/gbs16/run_9.
    rate = GptOssModule(learning_rate=4e-4, warmup_steps=128).step_learning_rate
    for step, value in ((0, 0.0), (1, 3.125e-6), (128, 4e-4), (9000, 3.999514277060425e-4)):
        assert rate(step) == pytest.approx(value, rel=1e-13)
    assert rate(1_200_000 - 128) == rate(1_200_000) == pytest.approx(4e-5)
    assert rate(1_200_000 - 129) > 4e-5


@pytest.mark.parametrize("kind", [Llama31Module, GptOssModule])
def test_without_a_warm_up_training_starts_at_the_full_rate(kind):
    module = kind(warmup_steps=0)
    assert module.step_learning_rate(0) == pytest.approx(4e-4)
    assert module.mllog_facts()["opt_learning_rate_decay_steps"] == 1_200_000


def test_numbers_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"warmup_steps must be at least 0, got -1\nmax_steps"):
        Llama31Module(warmup_steps=-1, max_steps=-9, max_grad_norm=0.0)


# Network and weights.


def test_nothing_is_built_before_the_settings_are_checked():
    """The closed network takes 32 GB."""
    Llama31Module(net=lambda: pytest.fail("built"))


@pytest.mark.parametrize(
    ("kind", "net", "shape"), [(Llama31Module, Llama31, LLAMA), (GptOssModule, GptOss, MOE)]
)
def test_first_weights_follow_from_the_seed_alone(kind, net, shape):
    found = []
    for drawn in (0, 5):
        torch.manual_seed(7)
        torch.randn(drawn)  # as preparing the data on one rank might
        before = torch.random.get_rng_state()
        module = kind(net=lambda: net(**shape))
        module.build()
        assert torch.equal(before, torch.random.get_rng_state())
        found.append(module.net.state_dict())
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name])


def test_a_net_with_too_few_words_is_refused():
    module = module_of()
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(vocab_size=98))
    with pytest.raises(ValueError, match=r"the net has 97 words .*but the data 98"):
        module.setup("fit")


# Loss and metric.


def test_loss_is_the_mean_cross_entropy_of_the_next_tokens():
    module, batch = module_of(), batch_of()
    logits = module.net(batch[:, :-1])
    expected = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    torch.testing.assert_close(module.training_step(batch, 0), expected)


def test_labels_after_the_end_of_a_text_do_not_count():
    """Weights of every label, as the reference's eod_mask_loss gives them, on made-up ids."""
    module, batch = module_of(GptOssModule, eos_id=5), batch_of()
    batch[0, 3] = batch[1, 7] = batch[2, 12] = 5  # the last is a label only
    losses = module.net(batch[:, :-1], batch[:, 1:])
    counted = torch.ones(3, 12, dtype=torch.bool)
    counted[batch[:, :-1] == 5] = False
    assert 3 * 12 - int(counted.sum()) >= 2
    torch.testing.assert_close(module.training_step(batch, 0), losses[counted].mean())
    module.validation_step(batch, 1)
    torch.testing.assert_close(
        module.log_perplexity.compute(), losses[counted].double().mean(), rtol=1e-6, atol=0
    )


def test_a_batch_of_ends_only_trains_nothing():
    module = module_of(GptOssModule, eos_id=5)
    loss = module.training_step(torch.full_like(batch_of(), 5), 0)
    loss.backward()
    assert loss == 0
    assert all(weight.grad is None or not weight.grad.any() for weight in module.net.parameters())


def test_perplexity_is_a_sum_over_a_count_in_double_precision():
    metric, values = LogPerplexity(), torch.rand(7, 5, generator=torch.manual_seed(0)) * 12
    for rows in values.split([1, 4, 2]):
        metric.update(rows, torch.ones_like(rows))
    metric.update(values[:0], values[:0])  # a rank without samples
    assert metric.compute().dtype == torch.float64
    assert float(metric.compute()) == pytest.approx(float(values.double().mean()), rel=1e-15)


def test_a_foreign_nets_words_beyond_the_datas_cannot_win():
    class Uniform(nn.Module):
        def forward(self, ids):
            return torch.zeros(*ids.shape, 200)

    module = Llama31Module(net=Uniform)
    module.build()
    module._trainer = SimpleNamespace(
        datamodule=SimpleNamespace(vocab_size=97), log_every_n_steps=0
    )
    assert float(module.training_step(batch_of(), 0)) == pytest.approx(math.log(97))


def test_gradients_are_clipped_to_the_global_norm():
    module = module_of(max_grad_norm=0.5)
    module.training_step(batch_of(), 0).backward()
    gradients = [weight.grad for weight in module.net.parameters()]
    before = torch.cat([gradient.flatten() for gradient in gradients])
    module.configure_gradient_clipping(module.configure_optimizers()["optimizer"])
    after = torch.cat([gradient.flatten() for gradient in gradients])
    torch.testing.assert_close(after, before * 0.5 / (before.norm() + 1e-6))
    assert before.norm() > 0.5


# Foreign networks.


class LooksAhead(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(97, 97)

    def forward(self, ids):
        return self.table(ids.roll(-1, 1))


class Replies(nn.Module):
    def __init__(self, reply):
        super().__init__()
        self.reply = reply

    def forward(self, ids):
        return self.reply(ids)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (LooksAhead(), "LooksAhead looks ahead"),
        (Replies(lambda ids: torch.zeros(len(ids), 97)), r"but returned shape \(2, 97\)"),
        (Replies(lambda ids: (ids, ids)), "but returned a tuple of 2"),
        (Replies(lambda ids: torch.zeros(*ids.shape, 96)), "knows 96 words, but the data has 97"),
        (Replies(lambda ids: torch.full((*ids.shape, 97), math.nan)), "not finite"),
        (Replies(lambda ids: ids[:, 99]), "fails on 2 sequences of 16 tokens"),
    ],
)  # fmt: skip
def test_a_foreign_net_that_does_not_fit_is_told_in_one_line(net, words):
    module = Llama31Module(net=lambda: net)
    with pytest.raises(ValueError, match=words) as caught:
        module.check_net(vocab_size=97)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [Llama31Module, GptOssModule])
def test_the_reference_passes_the_check_of_foreign_nets(kind):
    module_of(kind).check_net(vocab_size=97, seq_length=24)


# Samples of text.


def test_the_likeliest_continuation_is_the_networks():
    class Counts(nn.Module):
        """Says that 1 follows 0, 2 follows 1, ...; words from 10 on exist for the net only."""

        def forward(self, ids):
            return F.one_hot((ids + 1) % 12, 12).float() * 100

    prompts = torch.tensor([[4, 5], [0, 1]])
    found = continuations(Counts(), prompts, 3)
    assert found.tolist() == [[[6, 7, 8], [2, 3, 4]]] * 2
    assert continuations(Counts(), torch.tensor([[8, 9]]), 1, num_words=10).max() < 10
    words = "abcdefghijkl"
    texts = torch.tensor([[4, 5, 6, 7], [0, 1, 3, 3]])
    text = describe_continuations(texts, found, 2, lambda ids: "".join(words[i] for i in ids))
    lines = [
        "text 1: ab",
        "  likeliest: cde",
        "  drawn (temperature 0.8): cde",
        "  in the data: dd",
    ]
    assert text.splitlines()[-4:] == lines
    assert "text 0: 4 5" in describe_continuations(texts, found, 2)


def test_artifacts_hold_held_out_texts(tmp_path):
    module = module_of()
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(vocab_size=97))
    module.write_artifacts(tmp_path)
    assert not list(tmp_path.iterdir())  # no evaluation yet
    module.validation_step(batch_of(rows=5, tokens=90), 0)
    module.gather_artifacts()
    module.write_artifacts(tmp_path)
    text = (tmp_path / "sample.txt").read_text()
    assert text.count("in the data: ") == 3
