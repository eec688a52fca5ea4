"""BERT's training rules: schedule, optimizer groups, metric, starting weights, predictions."""

import copy
from types import SimpleNamespace

import pytest
import torch

from modules.bert import BertModule
from modules.bert.masked_lm import MaskedAccuracy, masked_lm_loss
from modules.bert.module import describe_predictions
from modules.bert.net import Bert
from modules.bert.transformers_adapter import MaskedLMAdapter
from modules.common.schedules import warmup_linear_decay
from tests.modules.bert.test_net import SMALL, inputs, packed


def small_net():
    torch.manual_seed(0)
    return Bert(**SMALL, dropout=0.0, attention_dropout=0.0)


@pytest.mark.parametrize(
    ("step", "settings", "rate"),
    [
        (0, {"learning_rate": 3.5e-4, "training_steps": 13700}, 3.5e-4),
        (6850, {"learning_rate": 3.5e-4, "training_steps": 13700}, 1.75e-4),
        (13700, {"learning_rate": 3.5e-4, "training_steps": 13700}, 0.0),
        (20000, {"learning_rate": 3.5e-4, "training_steps": 13700}, 0.0),
        (0, {"learning_rate": 2e-3, "training_steps": 1141, "warmup_steps": 100}, 0.0),
        (50, {"learning_rate": 2e-3, "training_steps": 1141, "warmup_steps": 100}, 1e-3),
        (100, {"learning_rate": 2e-3, "training_steps": 1141, "warmup_steps": 100},
         2e-3 * (1 - 100 / 1141)),
        (0, {"learning_rate": 2.88293e-3, "training_steps": 600, "warmup_steps": 287,
             "start_warmup_step": -76}, 2.88293e-3 * 76 / 287),
        (210, {"learning_rate": 2.88293e-3, "training_steps": 600, "warmup_steps": 287,
               "start_warmup_step": -76}, 2.88293e-3 * 286 / 287),
        (211, {"learning_rate": 2.88293e-3, "training_steps": 600, "warmup_steps": 287,
               "start_warmup_step": -76}, 2.88293e-3 * (1 - 211 / 600)),
        (0, {"learning_rate": 2.9293e-3, "training_steps": 700, "start_warmup_step": -700},
         2.9293e-3),
    ],
)  # fmt: skip
def test_learning_rate_follows_the_reference(step, settings, rate):
    assert warmup_linear_decay(step, **settings) == pytest.approx(rate, rel=1e-12)


def test_biases_and_norms_are_neither_decayed_nor_rescaled():
    module = BertModule(net=small_net)
    decayed, plain = module.parameter_groups()
    named = {id(weight): name for name, weight in module.net.named_parameters()}
    assert decayed["weight_decay"] == 0.01
    assert plain["weight_decay"] == 0.0
    for weight in plain["params"]:
        assert "bias" in named[id(weight)] or "norm" in named[id(weight)]
    for weight in decayed["params"]:
        assert "bias" not in named[id(weight)]
        assert "norm" not in named[id(weight)]
    assert len(decayed["params"]) + len(plain["params"]) == len(named)


def test_optimizer_step_equals_the_formula_written_out():
    module = BertModule(net=small_net, learning_rate=0.01, training_steps=100)
    optimizer = module.configure_optimizers()["optimizer"]
    scheduler = module.configure_optimizers()["lr_scheduler"]["scheduler"]
    assert scheduler.get_last_lr() == [0.01, 0.01]
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.01
    batch = packed([20, 9])
    words, _ = module.net(*inputs(batch))
    masked_lm_loss(words, batch["masked_labels"]).backward()
    before = copy.deepcopy(dict(module.net.named_parameters()))
    grads = {n: p.grad.clone() for n, p in module.net.named_parameters() if p.grad is not None}
    optimizer.step()
    norm = torch.sqrt(sum((g.double() ** 2).sum() for g in grads.values()))
    for name, grad in grads.items():
        w = before[name].detach().double()
        g = grad.double() * min(1.0, 1.0 / float(norm))
        u = g / (g.abs() + 1e-6)  # the first step's corrected moments are g and g squared
        ratio = 1.0
        if w.ndim > 1:
            u = u + 0.01 * w
            ratio = float(w.norm() / u.norm())
        wanted = (w - 0.01 * ratio * u).float()
        got = dict(module.net.named_parameters())[name].detach()
        torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learning_rate": -1e-3}, "learning_rate must be at least 0"),
        ({"training_steps": 0}, "training_steps must be at least 1"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0"),
        ({"warmup_steps": 9, "start_warmup_step": 1}, "start_warmup_step must be at most 0"),
        ({"weight_decay": 0.0}, "weight_decay must be above 0, as LAMB rescales no tensor"),
    ],
)
def test_numbers_that_train_silently_wrong_are_rejected(settings, words):
    with pytest.raises(ValueError, match=words):
        BertModule(net=small_net, **settings)


def test_start_of_the_warm_up_is_free_without_one():
    module = BertModule(net=small_net, warmup_steps=0, start_warmup_step=5)
    assert module.mllog_facts()["start_warmup_step"] == 5


def test_loss_divides_by_the_count_plus_a_little():
    logits, labels = torch.randn(7, 11), torch.randint(0, 11, (7,))
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert float(masked_lm_loss(logits, labels)) == pytest.approx(float(each.sum() / (7 + 1e-5)))
    assert masked_lm_loss(logits.bfloat16(), labels).dtype == torch.float32


def test_accuracy_is_of_words_not_of_samples_and_counts_a_sample_once():
    metric = MaskedAccuracy()
    logits = torch.eye(5)
    right = torch.tensor([0, 1, 2, 0])
    logits = logits[torch.tensor([0, 1, 2, 3])]
    for _ in range(2):  # the second time is a repetition, as under FSDP
        metric.update(
            torch.tensor([4, 9]), logits, right, torch.tensor([0, 0, 0, 1]), torch.tensor([1, 0])
        )
    values = metric.compute()
    assert values["masked_lm_accuracy"] == 0.75
    assert values["next_sentence_accuracy"] == 0.5
    assert values["masked_lm_accuracy"].dtype == torch.float64


def test_accuracy_does_not_depend_on_order_or_sharding():
    batch = packed([20, 9, 33, 12, 25, 8])
    logits = torch.randn(len(batch["masked_index"]), 97)
    labels, samples = batch["masked_labels"], batch["masked_samples"]
    labels[::2] = logits.argmax(1)[::2]

    def measure(order):
        metric = MaskedAccuracy()
        metric.add_nothing()
        for n in order:
            own = samples == n
            zeros = torch.zeros(int(own.sum()), dtype=torch.long)
            metric.update(torch.tensor([n]), logits[own], labels[own], zeros, torch.ones(1).long())
        return metric.compute()

    assert measure(range(6)) == measure([5, 3, 1, 0, 2, 4])


def attach(module, **datamodule):
    module._trainer = SimpleNamespace(
        ckpt_path=None, datamodule=SimpleNamespace(**datamodule), barebones=False
    )
    return module


def test_missing_starting_checkpoint_says_where_to_get_it(tmp_path):
    module = BertModule(net=small_net)
    attach(module, checkpoint=tmp_path / "tf1_ckpt" / "model.ckpt-28252", vocab_size=97)
    with pytest.raises(
        FileNotFoundError, match="model.ckpt-28252.index: missing.*bert-input-files"
    ):
        module.setup("fit")
    scratch = BertModule(net=small_net, from_scratch=True)
    attach(scratch, checkpoint=tmp_path / "none", vocab_size=97).setup("fit")


def test_starting_weights_are_loaded_before_the_clock(tmp_path):
    source = small_net()
    with torch.no_grad():
        source.pooler.weight.fill_(0.25)
    torch.save(source.state_dict(), tmp_path / "start.pt")
    module = attach(BertModule(net=small_net), checkpoint=tmp_path / "start.pt", vocab_size=97)
    module.setup("fit")
    assert float(module.net.pooler.weight.detach().min()) == 0.25


def test_start_is_judged_by_its_accuracy():
    module = BertModule(net=small_net)
    right, sentence = module.judge_start({"masked_lm_accuracy": 0.3405})
    assert right
    assert sentence.startswith("Starting checkpoint and evaluation data are right: ")
    for accuracy in (0.3395, 0.3422, float("nan")):
        right, sentence = module.judge_start({"masked_lm_accuracy": accuracy})
        assert not right
        assert "not the expected ones" in sentence
    assert BertModule(net=small_net, starting_accuracy=None).judge_start({}) is None


def test_vocabularies_of_net_and_data_must_agree():
    module = attach(BertModule(net=small_net), checkpoint=None, vocab_size=30522)
    with pytest.raises(ValueError, match="the net has 97 words .* the data 30522"):
        module.setup("fit")


def test_samples_must_not_be_longer_than_the_net_allows():
    recipe = SimpleNamespace(max_seq_length=41)
    module = attach(BertModule(net=small_net), checkpoint=None, vocab_size=97, recipe=recipe)
    with pytest.raises(ValueError, match="the net has 40 positions .* up to 41 tokens"):
        module.setup("fit")
    recipe.max_seq_length = 40
    module.setup("fit")


def test_foreign_net_needs_no_fewer_words_than_the_data():
    class Foreign(torch.nn.Module):
        vocab_size = 90

    module = attach(BertModule(net=Foreign), checkpoint=None, vocab_size=97)
    with pytest.raises(ValueError, match="the net has 90 words, the data 97"):
        module.setup("fit")
    module.net.vocab_size = 128
    module.setup("fit")


def test_foreign_net_is_checked_on_the_longest_sample():
    # Roberta numbers positions from 2 on, so 40 of them are too few for 40 tokens.
    shape = {"vocab_size": 97, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
             "intermediate_size": 8, "max_position_embeddings": 40}  # fmt: skip
    net = MaskedLMAdapter(model="RobertaForMaskedLM", config=shape)
    module = attach(BertModule(net=lambda: net), vocab_size=97)
    module.check_net()
    module.trainer.datamodule.recipe = SimpleNamespace(max_seq_length=38)
    module.setup("fit")
    module.trainer.datamodule.recipe.max_seq_length = 40
    with pytest.raises(
        ValueError, match="MaskedLMAdapter fails on samples of 40 tokens: IndexError: index"
    ):
        module.setup("fit")
    assert net.training


def test_checking_a_foreign_net_leaves_its_frozen_parts_in_evaluation_mode():
    class Foreign(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen, self.words = torch.nn.Dropout(0.5).eval(), torch.nn.Embedding(50, 50)

        def forward(self, input_T, segment_T, position_T, cu_seqlens, masked_index_M):
            return self.frozen(self.words(input_T))[masked_index_M], None

    module = BertModule(net=Foreign)
    module.check_net()
    assert (module.net.training, module.net.frozen.training) == (True, False)


def test_foreign_net_is_checked_before_training():
    class Foreign(torch.nn.Module):
        def __init__(self, result):
            super().__init__()
            self.result = result

        def forward(self, words, segments, positions, starts, masked):
            if isinstance(self.result, Exception):
                raise self.result
            return self.result

    good = torch.zeros(2, 97)
    for result in ((good, None), (good, torch.zeros(2, 2))):
        BertModule(net=lambda result=result: Foreign(result)).check_net()
    BertModule(net=small_net).check_net()
    for result, words in (
        ((torch.zeros(5, 97), None), r"returned shapes \(\(5, 97\), None\)"),
        ((good, torch.zeros(2, 3)), "needed"),
        (RuntimeError("no luck\nat all"), "fails on samples of 3 and 2 tokens: .*: no luck$"),
    ):
        with pytest.raises(ValueError, match=words):
            BertModule(net=lambda result=result: Foreign(result)).check_net()


def test_predictions_show_words_and_verdicts():
    words = ["[MASK]", "the", "cat", "sat", "##s"]
    batch = {
        "input_ids": torch.tensor([1, 0, 3, 4, 1]),
        "cu_seqlens": torch.tensor([0, 4, 5]),
        "masked_index": torch.tensor([1, 4]),
        "masked_labels": torch.tensor([2, 1]),
    }
    text = describe_predictions(batch, torch.tensor([2, 3]), words, 5)
    assert "the [MASK] sats" in text
    assert "[MASK]         -> cat            right" in text
    assert "-> sat            wrong, it was the" in text


def test_predictions_of_a_net_with_more_words_than_the_data_are_shown_by_number():
    words = ["[MASK]", "cat"]
    batch = {
        "input_ids": torch.tensor([1, 0]),
        "cu_seqlens": torch.tensor([0, 2]),
        "masked_index": torch.tensor([1]),
        "masked_labels": torch.tensor([1]),
    }
    text = describe_predictions(batch, torch.tensor([50_000]), words, 5)
    assert "-> [word 50000]   wrong, it was cat" in text


def test_rate_is_zero_from_the_schedules_last_step_on():
    module = BertModule(net=lambda: torch.nn.Linear(2, 2), training_steps=7)
    assert module.schedule_steps == 7
    assert module.step_learning_rate(module.schedule_steps - 1) > 0
    assert all(module.step_learning_rate(step) == 0 for step in (7, 8, 100))
