"""The net's size and first weights, the module's schedule, average, word error rate and log."""

import math
import statistics
import time
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torchaudio.functional import rnnt_loss

from modules.common.schedules import warmup_hold_decay
from modules.rnnt import RNNTModule
from modules.rnnt.audio_features import splice_frames
from modules.rnnt.ema import averaged_copy, update_average
from modules.rnnt.net import RNNT
from modules.rnnt.word_errors import WordErrorRate

SMALL = {
    "num_labels": 7, "encoder_size": 16, "pre_layers": 1, "post_layers": 2,
    "prediction_size": 8, "joint_size": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def reference_net():
    torch.manual_seed(0)
    return RNNT()


def test_reference_net_has_the_published_parameters(reference_net):
    counts = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in reference_net.named_children()
    }
    counts = {name: count for name, count in counts.items() if count}
    assert counts == {
        "pre_rnn": 13_582_336, "post_rnn": 29_384_704, "pred_embed": 523_776,
        "dec_rnn": 4_202_496, "joint_enc": 524_800, "joint_pred": 262_656, "joint_net": 525_312,
    }  # fmt: skip
    assert sum(counts.values()) == 49_006_080
    assert len(list(reference_net.parameters())) == 35
    assert set(reference_net.tensor_names()) == set(counts)
    assert len(reference_net.tensor_names()) == 7


def test_first_weights_have_the_reference_ranges(reference_net):
    for part, size in (("pre_rnn", 1024), ("post_rnn", 1024), ("dec_rnn", 512)):
        lstm = getattr(reference_net, part).lstm
        bound = 0.5 / math.sqrt(size)
        for name, weight in lstm.named_parameters():
            if name.startswith("bias"):
                forget = 0.5 if name.startswith("bias_ih") else 0.0
                assert (weight[size : 2 * size] == forget).all()
                weight = torch.cat((weight[:size], weight[2 * size :]))
            assert 0.98 * bound < weight.abs().max() <= bound
    for linear in (reference_net.joint_enc, reference_net.joint_pred, reference_net.joint_net):
        bound = 1 / math.sqrt(linear.in_features)
        assert 0.97 * bound < linear.bias.abs().max() <= bound  # not scaled
        assert 0.98 * bound < linear.weight.abs().max() <= bound
    assert float(reference_net.pred_embed.weight.detach().std()) == pytest.approx(1.0, abs=0.01)


def test_dropout_is_between_and_after_the_lstm_layers(reference_net):
    for part, rate in (("pre_rnn", 0.1), ("post_rnn", 0.1), ("dec_rnn", 0.3)):
        module = getattr(reference_net, part)
        assert module.lstm.dropout == rate
        assert module.dropout.p == rate
    assert reference_net.joint_dropout.p == 0.3


def test_encoder_stacks_neighbours_with_zeros_past_the_end():
    torch.manual_seed(0)
    net = RNNT(**SMALL).eval()
    features = torch.randn(2, 5, 240)
    encoded, lengths = net.encode(features, torch.tensor([5, 4]))
    assert encoded.shape == (2, 3, 8)
    assert lengths.tolist() == [3, 2]
    hidden, _ = net.pre_rnn.lstm(features)
    stacked = torch.zeros(2, 3, 32)
    for j in range(3):
        stacked[:, j, :16] = hidden[:, 2 * j]
        if 2 * j + 1 < 5:
            stacked[:, j, 16:] = hidden[:, 2 * j + 1]
    wanted = net.joint_enc(net.post_rnn.lstm(stacked)[0])
    torch.testing.assert_close(encoded, wanted)


def test_padding_does_not_change_an_utterance():
    net = RNNT(**SMALL).eval()
    features = torch.randn(1, 6, 240)
    longer = torch.cat((features, torch.zeros(1, 4, 240)), 1)
    alone, count = net.encode(features, torch.tensor([6]))
    padded, same = net.encode(longer, torch.tensor([6]))
    assert int(count) == int(same) == 3
    torch.testing.assert_close(padded[:, :3], alone)


def test_labels_start_from_zeros_and_continue_from_a_state():
    net = RNNT(**SMALL).eval()
    labels = torch.tensor([[3, 0, 6]])
    whole, _ = net.predict(labels, start=True)
    assert whole.shape == (1, 4, 8)
    hidden, _ = net.dec_rnn.lstm(torch.cat((torch.zeros(1, 1, 8), net.pred_embed(labels)), 1))
    torch.testing.assert_close(whole, net.joint_pred(hidden))
    first, state = net.predict(labels[:, :0], start=True)
    steps = [first]
    for label in labels[0]:
        step, state = net.predict(label[None, None], state)
        steps.append(step)
    torch.testing.assert_close(torch.cat(steps, 1), whole)


def test_lstms_leave_autocast_which_is_float16_on_gpus():
    net = RNNT(**SMALL).eval()
    features = torch.randn(2, 6, 240)
    plain, _ = net.pre_rnn(features)
    with torch.autocast("cpu", torch.bfloat16):
        under, _ = net.pre_rnn(features)
        predicted, _ = net.predict(torch.tensor([[3]]), start=True)
    assert torch.equal(under, plain)
    assert predicted.dtype == torch.bfloat16  # the projections after them do not


def rate(step, **settings):
    table = {"steps_per_epoch": 10, "learning_rate": 1.0, "warmup_epochs": 2, "hold_epochs": 3}
    return warmup_hold_decay(step, **{**table, "decay_factor": 0.5, **settings})


@pytest.mark.parametrize(
    ("step", "wanted"),
    [(1, 2 / 21), (2, 3 / 21), (19, 20 / 21), (20, 1.0), (21, 1.0), (49, 1.0), (50, 1.0),
     (51, 0.5), (60, 0.5), (61, 0.25), (70, 0.25), (1000, 1e-5)],
)  # fmt: skip
def test_rate_rises_per_step_and_falls_per_epoch(step, wanted):
    assert rate(step, min_learning_rate=1e-5) == pytest.approx(wanted, rel=1e-12)


def test_minimum_rate_also_holds_in_the_warmup():
    assert rate(1, learning_rate=1e-5, min_learning_rate=1e-5) == 1e-5


def test_average_follows_the_weights_by_the_formula():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = averaged_copy(net)
    wanted = {k: v.double().clone() for k, v in net.state_dict().items()}
    for _ in range(5):
        with torch.no_grad():
            for p in net.parameters():
                p += torch.randn_like(p)
        net(torch.randn(4, 3))
        update_average(average, net, factor=0.9)
        for key, value in net.state_dict().items():
            floating = value.is_floating_point()
            wanted[key] = 0.9 * wanted[key] + 0.1 * value.double() if floating else value
    for key, value in average.state_dict().items():
        torch.testing.assert_close(value.double(), wanted[key].double(), atol=1e-6, rtol=1e-6)
    assert not any(p.requires_grad for p in average.parameters())


def test_word_error_rate_does_not_depend_on_the_ranks():
    counts = torch.tensor([[2, 1, 9], [0, 0, 1], [1, 4, 2], [3, 0, 5]])
    values = []
    for shares in ([counts], [counts[:1], counts[1:]], [counts[2:], counts[:3], counts[:0]]):
        metric = WordErrorRate()
        for share in shares:
            metric.update(share)
        values.append(metric.compute())
    assert all(torch.equal(value, torch.tensor(5 / 17, dtype=torch.float64)) for value in values)


def test_word_error_rate_without_words_is_nan():
    metric = WordErrorRate()
    metric.update(torch.empty(0, 3, dtype=torch.int64))
    assert metric.compute().isnan()


def batch_of(B=3, N=9000):
    torch.manual_seed(4)
    return {
        "audio": torch.randint(-8000, 8000, (B, N), dtype=torch.int16),
        "audio_lengths": torch.tensor([N, N - 700, N // 2][:B]),
        "labels": torch.randint(1, 7, (B, 3)),
        "label_lengths": torch.tensor([3, 2, 1][:B]),
        "seed": torch.arange(B),
        "index": torch.arange(B),
    }


def test_training_features_are_a_function_of_the_seed():
    module = RNNTModule(net=lambda: RNNT(**SMALL))
    batch = batch_of()
    once, lengths = module.extract_features(batch, augment=True)
    again, _ = module.extract_features(batch, augment=True)
    assert torch.equal(once, again)
    other, other_lengths = module.extract_features(
        {**batch, "seed": batch["seed"] + 9}, augment=True
    )
    assert not torch.equal(lengths, other_lengths)
    plain, plain_lengths = module.extract_features(batch, augment=False)
    assert plain_lengths.tolist() == [19, 18, 10]
    assert once.shape != plain.shape or not torch.equal(once, plain)


def test_features_are_float32_regardless_of_precision(monkeypatch):
    module = RNNTModule(net=lambda: RNNT(**SMALL))
    seen = []

    def look(waves, *rest):
        seen.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
        return features(waves, *rest)

    features = module.features.forward
    monkeypatch.setattr(module.features, "forward", look)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with torch.autocast("cpu", torch.bfloat16):
            module.extract_features(batch_of(), augment=True)
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == [("highest", False)]


def test_evaluation_does_not_depend_on_the_batch(monkeypatch):
    module = RNNTModule(net=lambda: RNNT(**SMALL))
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(decode=str))
    encodings = []

    def record(net, encoded, frames, **settings):
        encodings.append((encoded, frames))
        return [[]] * len(frames)

    monkeypatch.setattr("modules.rnnt.module.greedy_decode", record)
    lengths = torch.tensor([9000, 4100, 2500])  # 19, 9 and 6 frames: the odd ones read further
    batch = {**batch_of(), "audio_lengths": lengths}
    alone = [{key: value[row : row + 1] for key, value in batch.items()} for row in range(3)]
    for row, length in enumerate(lengths.tolist()):
        batch["audio"][row, length:] = 0
        alone[row]["audio"] = batch["audio"][row : row + 1, :length]
    with torch.no_grad():
        for some in (batch, *alone):
            module.validation_step(some, 0)
    together, frames = encodings[0]
    assert frames.tolist() == [10, 5, 3]
    for row, (encoded, count) in enumerate(encodings[1:]):
        torch.testing.assert_close(together[row, : frames[row]], encoded[0, : int(count)])


def test_speed_stays_in_the_closed_range():
    module = RNNTModule(net=lambda: RNNT(**SMALL))
    batch = {k: v[:1].repeat(64, *[1] * (v.dim() - 1)) for k, v in batch_of().items()}
    batch["seed"] = torch.arange(64)
    _, lengths = module.extract_features(batch, augment=True)
    spread = lengths / 19
    assert spread.min() >= 0.84
    assert spread.max() <= 1.2
    assert spread.max() - spread.min() > 0.25


def test_vocabulary_of_another_size_is_an_error():
    module = RNNTModule(net=lambda: RNNT(**SMALL))
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(vocab_size=9))
    with pytest.raises(ValueError, match="vocab_size is 9 but the net has 7"):
        module.setup("fit")


def test_sharding_is_an_error_as_the_joint_would_not_learn():
    module = RNNTModule(net=lambda: RNNT(**SMALL))
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    module._trainer = SimpleNamespace(strategy=strategy)
    with pytest.raises(ValueError, match="--trainer.strategy: a transducer cannot be sharded"):
        module.setup("fit")


def test_weights_in_half_precision_are_an_error():
    module = RNNTModule(net=lambda: RNNT(**SMALL))
    module._trainer = SimpleNamespace(precision="bf16-true")
    with pytest.raises(ValueError, match="bf16-true: .* need float32; use bf16-mixed"):
        module.setup("fit")


class Blind(nn.Module):
    """A net without a joint."""

    num_labels = 7


def test_foreign_net_is_checked():
    RNNTModule(net=lambda: RNNT(**SMALL)).check_net()
    with pytest.raises(ValueError, match="Blind has no encode, predict, join"):
        RNNTModule(net=Blind).check_net()
    module = RNNTModule(net=lambda: RNNT(**SMALL))
    module.net.num_labels = 12
    with pytest.raises(ValueError, match=r"shape \(2, 1, 3, 8\)"):
        module.check_net()
    line = "RNNT fails on 12 frames, of which 4 and 3 are speech, of 240"
    with pytest.raises(ValueError, match=line):
        RNNTModule(net=lambda: RNNT(**SMALL, input_size=80)).check_net()


def test_flops_count_every_matrix_once_per_use():
    module = RNNTModule(net=lambda: RNNT(**SMALL))
    batch = {**batch_of(1, 16000), "label_lengths": torch.tensor([3])}
    # 101 frames, 34 spliced, 17 encoded; 4 label nodes.
    lstm = lambda i, h: 4 * h * (i + h)  # noqa: E731
    wanted = 34 * lstm(240, 16) + 17 * (lstm(32, 16) + lstm(16, 16)) + 17 * 16 * 8
    wanted += 4 * (2 * lstm(8, 8)) + 4 * 64 + 17 * 4 * 8 * 8
    assert module.train_flops(batch) == 6 * wanted


class PlainStep(nn.Module):
    """The same graph as a plain PyTorch author writes it: torch's LSTMs, dense joint, one loss."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, features, lengths, labels, label_lengths):
        net = self.net
        hidden = net.pre_rnn.dropout(net.pre_rnn.lstm(features)[0])
        stacked, frames = splice_frames(hidden, lengths, frames=2)
        encoded = net.joint_enc(net.post_rnn.dropout(net.post_rnn.lstm(stacked)[0]))
        start = torch.zeros(len(labels), 1, net.pred_embed.embedding_dim)
        embedded = torch.cat((start, net.pred_embed(labels)), 1)
        predicted = net.joint_pred(net.dec_rnn.dropout(net.dec_rnn.lstm(embedded)[0]))
        hidden = torch.relu(encoded[:, :, None] + predicted[:, None])
        logits = net.joint_net(net.joint_dropout(hidden))
        return rnnt_loss(
            logits, labels.int(), frames.int(), label_lengths.int(), blank=net.num_labels
        )


@pytest.mark.speed
@pytest.mark.slow
def test_full_size_step_is_no_slower_than_plain_torch(reference_net):
    module = RNNTModule(net=lambda: reference_net)
    module._trainer = SimpleNamespace(log_every_n_steps=0)
    lengths = torch.tensor([90, 88, 84, 80, 74, 70, 60, 52])
    features = torch.randn(8, 90, 240)
    labels = torch.randint(1, 1023, (8, 18))
    label_lengths = torch.tensor([18, 15, 17, 13, 14, 11, 12, 9])
    batch = {"labels": labels, "label_lengths": label_lengths}
    module.extract_features = lambda batch, augment: (features, lengths)
    plain = PlainStep(reference_net)

    def ours():
        module.training_step(batch, 0).backward()

    def theirs():
        plain(features, lengths, labels, label_lengths).backward()

    reference_net.eval()
    assert float(module.training_step(batch, 0).detach()) == pytest.approx(
        float(plain(features, lengths, labels, label_lengths).detach()), rel=1e-4
    )
    reference_net.train()
    ratios = []
    for _ in range(5):
        moments = [time.process_time()]
        for step in (ours, theirs):
            reference_net.zero_grad(set_to_none=True)
            step()
            moments.append(time.process_time())
        ratios.append((moments[1] - moments[0]) / (moments[2] - moments[1]))
    ratio = statistics.median(ratios)
    print(f"full-size step / torch's LSTMs with torchaudio's loss: {ratio:.2f}")
    assert ratio <= 1.0
