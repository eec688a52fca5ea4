"""The lattice's loss and gradients against torchaudio's, finite differences and its own float64."""

import statistics
import time
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torchaudio.functional import rnnt_loss

from modules.rnnt.lattice import _LatticeLoss, lattice_loss


def lattice(B=6, T=9, N=5, seed=0, dtype=torch.float32):
    """Return log probabilities and sizes, among them one frame, no label, both and neither."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, T, N, 7, generator=generator, dtype=dtype)
    frames = torch.randint(1, T + 1, (B,), generator=generator)
    num_labels = torch.randint(0, N, (B,), generator=generator)
    frames[:4], num_labels[:4] = torch.tensor([T, 1, T, 1]), torch.tensor([N - 1, N - 1, 0, 0])
    return logits.log_softmax(-1)[..., :2].contiguous(), frames, num_labels


def by_torchaudio(log_probs_BTN2, frames_B, num_labels_B):
    """The same lattice as one of an alphabet of one letter and a blank."""
    B, _, N, _ = log_probs_BTN2.shape
    return rnnt_loss(
        log_probs_BTN2.contiguous(),
        torch.zeros(B, N - 1, dtype=torch.int32),
        frames_B.int(),
        num_labels_B.int(),
        blank=1,
        reduction="none",
        fused_log_softmax=False,
    )


def loss_and_gradient(function, log_probs, *sizes, weights=None):
    log_probs = log_probs.clone().requires_grad_()
    loss = function(log_probs, *sizes)
    weights = torch.ones_like(loss) if weights is None else weights
    return loss.detach(), torch.autograd.grad((weights * loss).sum(), log_probs)[0]


@pytest.mark.parametrize("shape", [(6, 9, 5), (4, 1, 1), (4, 1, 4), (5, 7, 1), (4, 3, 40)])
def test_loss_and_gradient_equal_torchaudio(shape):
    values = lattice(*shape)
    weights = torch.linspace(-1, 2, shape[0])
    loss, gradient = loss_and_gradient(lattice_loss, *values, weights=weights)
    wanted, wanted_gradient = loss_and_gradient(by_torchaudio, *values, weights=weights)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-4, atol=1e-5)


def test_gradient_equals_finite_differences():
    log_probs, *sizes = lattice(5, 4, 3, dtype=torch.float64)
    log_probs.requires_grad_()
    assert torch.autograd.gradcheck(lambda values: lattice_loss(values, *sizes), log_probs)


def test_every_frame_ends_with_one_blank_and_every_label_is_given_once():
    log_probs, frames, num_labels = lattice(8, 30, 12)
    _, gradient = loss_and_gradient(lattice_loss, log_probs, frames, num_labels)
    # The gradient of the loss is minus how often an alignment passes there on average.
    torch.testing.assert_close(-gradient[..., 1].sum((1, 2)), frames.float(), rtol=1e-5, atol=0)
    labels = -gradient[..., 0].sum((1, 2))
    torch.testing.assert_close(labels, num_labels.float(), rtol=1e-5, atol=1e-5)


def test_error_is_smaller_than_torchaudios():
    log_probs, *sizes = lattice(4, 200, 60, dtype=torch.float64)
    _, exact = loss_and_gradient(lattice_loss, log_probs, *sizes)
    ours, theirs = (
        (loss_and_gradient(function, log_probs.float(), *sizes)[1] - exact).abs().max()
        for function in (lattice_loss, by_torchaudio)
    )
    assert ours < 0.5 * theirs
    assert ours < 5e-5


@pytest.mark.parametrize("filler", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_padding_does_not_matter(filler):
    log_probs, frames, num_labels = lattice()
    wanted, wanted_gradient = loss_and_gradient(lattice_loss, log_probs, frames, num_labels)
    for row, (count, labels) in enumerate(zip(frames, num_labels, strict=True)):
        log_probs[row, count:] = filler
        log_probs[row, :, labels + 1 :] = filler
        log_probs[row, :, labels, 0] = filler  # the label after the last
    loss, gradient = loss_and_gradient(lattice_loss, log_probs, frames, num_labels)
    assert torch.equal(loss, wanted)
    assert torch.equal(gradient, wanted_gradient)


def test_an_utterance_does_not_depend_on_its_batch():
    values = lattice()
    together, gradient = loss_and_gradient(lattice_loss, *values)
    for row in range(6):
        log_probs, frames, num_labels = (value[row : row + 1] for value in values)
        alone = log_probs[:, :frames, : num_labels + 1]
        loss, own = loss_and_gradient(lattice_loss, alone, frames, num_labels)
        assert torch.equal(loss[0], together[row])
        assert torch.equal(own[0], gradient[row, :frames, : num_labels + 1])


def test_ways_of_probability_0_are_left_out():
    log_probs, *sizes = lattice(4, 6, 4)
    # The first label in the third frame only, so no blank before it there.
    log_probs[0, [0, 1, 3, 4, 5], 0, 0] = -torch.inf
    log_probs[0, 2:, 0, 1] = -torch.inf
    rest = log_probs.clone()
    rest[0] = torch.where(rest[0] == -torch.inf, -1e4, rest[0])
    loss, gradient = loss_and_gradient(lattice_loss, log_probs, *sizes)
    wanted, wanted_gradient = loss_and_gradient(lattice_loss, rest, *sizes)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradient, wanted_gradient)
    assert float(gradient[0, 2, 0, 0]) == pytest.approx(-1.0, abs=1e-5)


def test_impossible_utterance_has_an_infinite_loss_and_the_others_keep_theirs():
    log_probs, *sizes = lattice()
    wanted, wanted_gradient = loss_and_gradient(lattice_loss, log_probs, *sizes)
    log_probs[0, ..., 1] = -torch.inf
    loss, gradient = loss_and_gradient(lattice_loss, log_probs, *sizes)
    assert loss[0] == torch.inf
    assert torch.equal(loss[1:], wanted[1:])
    assert torch.equal(gradient[1:], wanted_gradient[1:])
    assert gradient.isfinite().all()


def test_nothing_waits_for_the_device_or_stays_on_the_cpu():
    context = SimpleNamespace()
    context.save_for_backward = lambda *saved: setattr(context, "saved_tensors", saved)
    with FakeTensorMode():  # refuses to read a value and to join tensors of two devices
        log_probs = torch.randn(3, 6, 4, 2, device="cuda")
        sizes = (torch.ones(3, dtype=torch.int64, device="cuda") for _ in range(2))
        # By hand, as autograd needs the device itself.
        loss = _LatticeLoss.forward(context, log_probs, *sizes)
        gradient, *_ = _LatticeLoss.backward(context, torch.ones_like(loss))
        assert loss.device.type == gradient.device.type == "cuda"
        assert loss.shape == (3,)
        assert gradient.shape == (3, 6, 4, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32_under_autocast(dtype):
    log_probs, *sizes = lattice()
    log_probs = log_probs.to(dtype)
    wanted, wanted_gradient = loss_and_gradient(lattice_loss, log_probs.float(), *sizes)
    with torch.autocast("cpu", dtype):
        loss, gradient = loss_and_gradient(lattice_loss, log_probs, *sizes)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, wanted)
    assert torch.equal(gradient, wanted_gradient.to(dtype))


def test_compiled_step_is_the_same_for_any_size_without_compiling_anew():
    compiled = torch.compile(lambda *values: 2 * lattice_loss(*values), backend="eager")
    for seed, shape in enumerate([(4, 5, 3), (5, 8, 4), (6, 3, 9), (4, 12, 6)]):
        values = lattice(*shape, seed=seed)
        loss, gradient = loss_and_gradient(compiled, *values)
        wanted, wanted_gradient = loss_and_gradient(lattice_loss, *values)
        assert torch.equal(loss, 2 * wanted)
        assert torch.equal(gradient, 2 * wanted_gradient)


def test_a_graph_that_is_kept_gives_the_same_gradient_again():
    log_probs, *sizes = lattice()
    log_probs.requires_grad_()
    loss = lattice_loss(log_probs, *sizes).sum()
    (first,) = torch.autograd.grad(loss, log_probs, retain_graph=True)
    (second,) = torch.autograd.grad(loss, log_probs)
    assert torch.equal(first, second)


@pytest.mark.speed
@pytest.mark.parametrize(
    ("shape", "most"), [((8, 20, 10), 1.6), ((8, 45, 19), 0.8), ((32, 150, 40), 0.3)]
)
def test_loss_is_faster_than_torchaudios(shape, most):
    log_probs, _, _ = lattice(*shape)
    B, T, N = shape
    # As in a batch of utterances of similar length.
    sizes = torch.linspace(0.7 * T, T, B).long(), torch.linspace(N - 1, 0.6 * N, B).long()
    ratios = []
    for _ in range(31):
        moments = [time.process_time()]
        for function in (lattice_loss, by_torchaudio):
            loss_and_gradient(function, log_probs, *sizes)
            moments.append(time.process_time())
        ratios.append((moments[1] - moments[0]) / (moments[2] - moments[1]))
    ratio = statistics.median(ratios)
    print(f"lattice loss {shape} against torchaudio's: {ratio:.2f}")
    assert ratio <= most
