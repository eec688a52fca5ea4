"""Transducer loss against explicit recursion and enumeration; batched decoding against a loop."""

import itertools
import time

import pytest
import torch
from torchaudio.functional import rnnt_loss

from modules.rnnt.greedy_decoding import greedy_decode
from modules.rnnt.net import RNNT
from modules.rnnt.transducer import node_log_probs, plan_groups, transducer_loss

TINY = {
    "input_size": 12, "num_labels": 5, "encoder_size": 8, "pre_layers": 1, "post_layers": 1,
    "prediction_size": 8, "joint_size": 8, "joint_dropout": 0.0, "init_scale": 1.0,
}  # fmt: skip


def recursion(logits_TUV, labels, blank):
    """Forward recursion in float64 python numbers."""
    p = logits_TUV.double().log_softmax(-1)
    T, nodes, _ = p.shape
    alpha = torch.full((T, nodes), -torch.inf, dtype=torch.float64)
    alpha[0, 0] = 0.0
    for t in range(T):
        for u in range(nodes):
            ways = [alpha[t, u]] if t == u == 0 else []
            if t:
                ways.append(alpha[t - 1, u] + p[t - 1, u, blank])
            if u:
                ways.append(alpha[t, u - 1] + p[t, u - 1, labels[u - 1]])
            alpha[t, u] = torch.logsumexp(torch.stack(ways), 0)
    return -(alpha[-1, -1] + p[-1, -1, blank])


def enumeration(logits_TUV, labels, blank):
    """Sum over every alignment."""
    p = logits_TUV.double().log_softmax(-1).exp()
    T, U = p.shape[0], len(labels)
    total = 0.0
    # Where each label is given: a non-decreasing choice of frames.
    for frames in itertools.combinations_with_replacement(range(T), U):
        probability, u = 1.0, 0
        for t in range(T):
            while u < U and frames[u] == t:
                probability *= float(p[t, u, labels[u]])
                u += 1
            probability *= float(p[t, u, blank])
        total += probability
    return -torch.tensor(total, dtype=torch.float64).log()


def problem(B=5, T=9, U=4, seed=0):
    torch.manual_seed(seed)
    net = RNNT(**TINY)
    encoded = torch.randn(B, T, 8, requires_grad=True)
    predicted = torch.randn(B, U + 1, 8, requires_grad=True)
    labels = torch.randint(0, 5, (B, U))
    frames = torch.tensor([T, 3, 5, T, 1][:B])
    counts = torch.tensor([2, U, 0, 1, 3][:B])
    return net, encoded, frames, predicted, labels, counts


def plain_loss(net, encoded, frames, predicted, labels, counts):
    """The dense joint and torchaudio's loss with its own softmax."""
    logits = net.join(encoded[:, :, None], predicted[:, None])
    return rnnt_loss(logits.float(), labels.int(), frames.int(), counts.int(), blank=5)


def test_loss_equals_recursion_and_enumeration():
    net, encoded, frames, predicted, labels, counts = problem()
    loss = transducer_loss(net, encoded, frames, predicted, labels, counts)
    logits = net.join(encoded[:, :, None], predicted[:, None]).detach()
    for reference in (recursion, enumeration):
        wanted = [
            reference(logits[b, : frames[b], : counts[b] + 1], labels[b, : counts[b]].tolist(), 5)
            for b in range(5)
        ]
        assert float(loss.detach()) == pytest.approx(float(sum(wanted)) / 5, rel=1e-5)


@pytest.mark.parametrize("max_nodes", [1, 60, 10**6])
def test_loss_and_gradients_equal_the_dense_joint(max_nodes):
    values = problem()
    net, encoded, _, predicted, *_ = values
    sources = [encoded, predicted, *net.joint_net.parameters()]
    loss = transducer_loss(*values, max_nodes=max_nodes)
    wanted = plain_loss(*values)
    torch.testing.assert_close(loss, wanted)
    ours = torch.autograd.grad(3.0 * loss, sources)
    theirs = torch.autograd.grad(3.0 * wanted, sources)
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_gradient_equals_finite_differences():
    net, encoded, frames, predicted, labels, counts = problem(B=2, T=4, U=2)
    frames, counts = torch.tensor([4, 3]), torch.tensor([2, 1])

    def loss(values):
        return transducer_loss(net, values, frames, predicted, labels, counts)

    (gradient,) = torch.autograd.grad(loss(encoded), encoded)
    for place in ((0, 0, 0), (0, 3, 5), (1, 2, 1), (1, 3, 0)):
        step = torch.zeros_like(encoded)
        step[place] = 1e-2
        with torch.no_grad():
            slope = (loss(encoded + step) - loss(encoded - step)) / 2e-2
        assert float(gradient[place]) == pytest.approx(float(slope), abs=2e-3)


def test_loss_without_gradient_needs_none():
    values = problem()
    with torch.no_grad():
        loss = transducer_loss(*values)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain_loss(*values).detach())


@pytest.mark.parametrize("max_nodes", [1, 10**6])
def test_loss_is_float32_under_bfloat16_autocast(max_nodes):
    values = problem()
    with torch.autocast("cpu", torch.bfloat16):
        loss = transducer_loss(*values, max_nodes=max_nodes)
        assert values[0].join(values[1][:, :1, None], values[3][:, None]).dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    loss.backward()
    weight = values[0].joint_net.weight
    assert weight.grad.dtype == torch.float32
    (wanted,) = torch.autograd.grad(plain_loss(*values), weight)
    torch.testing.assert_close(weight.grad, wanted, atol=0.02, rtol=0.1)
    assert float(loss.detach()) == pytest.approx(float(plain_loss(*values).detach()), rel=0.02)


def test_node_log_probs_ignore_the_padding_label():
    logits = torch.randn(1, 2, 3, 6)
    got = node_log_probs(logits, torch.tensor([[4, 1]]))
    p = logits.log_softmax(-1)
    torch.testing.assert_close(got[0, :, :2, 0], torch.stack((p[0, :, 0, 4], p[0, :, 1, 1]), 1))
    torch.testing.assert_close(got[..., 1], p[..., 5])


def test_groups_hold_every_utterance_once_and_little_padding():
    torch.manual_seed(0)
    frames = torch.randint(40, 60, (64,)).tolist()
    counts = torch.randint(5, 20, (64,)).tolist()
    groups = plan_groups(frames, counts, max_nodes=6000)
    assert sorted(n for group in groups for n in group) == list(range(64))
    padded = sum(len(g) * max(frames[n] for n in g) * max(counts[n] + 1 for n in g) for g in groups)
    assert all(
        len(g) * max(frames[n] for n in g) * max(counts[n] + 1 for n in g) <= 6000 for g in groups
    )
    assert padded < 64 * max(frames) * (max(counts) + 1)


class Scripted:
    """A network that gives a script: which label at which (frame, labels so far)."""

    num_labels = 5

    def __init__(self, rule):
        self.rule = rule

    def predict(self, labels_BU, state=None, *, start=False):
        B = len(labels_BU)
        count = torch.zeros(1, B, 1) if state is None else state[0] + 1
        return count[0][:, None], (count, count)

    def join(self, encoded, predicted):
        frame, count = torch.broadcast_tensors(encoded[..., 0], predicted[..., 0])
        logits = torch.zeros(*frame.shape, 6)
        for place in itertools.product(*(range(n) for n in frame.shape)):
            logits[place + (self.rule(int(frame[place]), int(count[place])),)] = 1.0
        return logits


def frames_of(length, B=1):
    return torch.arange(float(length))[None, :, None].expand(B, -1, -1)


def test_decoding_advances_after_30_labels_in_a_frame():
    net = Scripted(lambda frame, count: 2 if frame == 1 else 5)
    (found,) = greedy_decode(net, frames_of(4), torch.tensor([4]))
    assert found == [2] * 30


def test_decoding_starts_no_frame_with_more_than_300_labels():
    always = Scripted(lambda frame, count: 1)
    (found,) = greedy_decode(always, frames_of(40), torch.tensor([40]))
    assert len(found) == 330  # 300 is not more than 300: an eleventh frame is begun
    (few,) = greedy_decode(always, frames_of(40), torch.tensor([3]))
    assert len(few) == 90
    # 299 labels, 5 more in the next frame: that frame is finished, a later one is not begun.
    rule = Scripted(lambda t, n: 5 if n == 299 and t < 12 or (n == 304 and t < 13) else 3)
    (found,) = greedy_decode(rule, frames_of(40), torch.tensor([40]))
    assert len(found) == 304


def one_by_one(net, encoded, length, per_frame=30, limit=300):
    """The reference's loop, one utterance at a time."""
    labels, (predicted, state) = [], net.predict(torch.zeros(1, 0, dtype=torch.int64), start=True)
    for t in range(length):
        if len(labels) > limit:
            break
        for _ in range(per_frame):
            best = int(net.join(encoded[t], predicted[0, 0]).argmax())
            if best == net.num_labels:
                break
            labels.append(best)
            predicted, state = net.predict(torch.tensor([[best]]), state)
    return labels


def talkative(scale=6.0, **settings):
    """A net that gives labels and blanks in turn."""
    torch.manual_seed(3)
    net = RNNT(**{**TINY, **settings}).eval()
    with torch.no_grad():
        net.joint_net.weight *= scale
        net.joint_net.bias[-1] += 2.0
    return net


@torch.no_grad()
def test_batched_decoding_equals_the_loop_word_for_word():
    net = talkative()
    encoded = torch.randn(64, 25, 8)
    lengths = torch.randint(1, 26, (64,))
    found = greedy_decode(net, encoded, lengths)
    wanted = [one_by_one(net, e, int(n)) for e, n in zip(encoded, lengths, strict=True)]
    assert found == wanted
    assert 100 < sum(map(len, found)) < 64 * 25 * 30
    assert greedy_decode(net, encoded, lengths, max_symbols=3) == [
        one_by_one(net, e, int(n), limit=3) for e, n in zip(encoded, lengths, strict=True)
    ]


@pytest.mark.speed
@pytest.mark.slow
@torch.no_grad()
def test_batched_decoding_is_10_times_faster_than_the_loop():
    # As a trained net speaks: one label in every third frame, evenly over the utterances.
    net = talkative(prediction_size=64, joint_size=64, num_labels=64, encoder_size=64)
    encoded, lengths = torch.randn(64, 60, 64), torch.full((64,), 60)
    net.joint_net.weight[-1] = 0.0
    net.joint_net.weight[-1, 0] = 50.0
    encoded[..., 0] = torch.tensor([9.0, -9.0, 9.0]).repeat(20)
    greedy_decode(net, encoded, lengths, max_symbols_per_frame=1)
    start = time.perf_counter()
    found = greedy_decode(net, encoded, lengths, max_symbols_per_frame=1)
    middle = time.perf_counter()
    wanted = [one_by_one(net, e, 60, per_frame=1) for e in encoded]
    end = time.perf_counter()
    ratio = (end - middle) / (middle - start)
    print(f"decoding: {ratio:.1f} times the loop, {sum(map(len, found)) / 3840:.2f} labels/frame")
    assert found == wanted
    assert ratio >= 10
