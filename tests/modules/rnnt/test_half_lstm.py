"""LSTMs in float16 against float32: outputs, states and gradients of any size."""

import pytest
import torch
from torch import nn

from modules.rnnt.half_lstm import run_half
from modules.rnnt.net import RNNT

NET = {
    "input_size": 12, "num_labels": 5, "encoder_size": 16, "pre_layers": 1, "post_layers": 2,
    "prediction_size": 8, "joint_size": 8, "encoder_dropout": 0.0, "prediction_dropout": 0.0,
    "joint_dropout": 0.0,
}  # fmt: skip


def outputs_and_gradients(run, lstm, x, state, size=1.0):
    """Return outputs and final states, and gradients by ``size`` times their weighted sum."""
    sources = [x, *state, *lstm.parameters()]
    y, (hidden, cell) = run(x, state)
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(y.shape, generator=generator, device="cpu").to(y.device)
    total = size * ((y * weights).sum() + hidden.sum() + 2 * cell.sum())
    return (y, hidden, cell), torch.autograd.grad(total, sources)


def problem(device="cpu"):
    torch.manual_seed(0)
    lstm = nn.LSTM(12, 8, 2, batch_first=True).to(device)
    x = torch.randn(4, 9, 12, device=device, requires_grad=True)
    state = tuple(torch.randn(2, 4, 8, device=device, requires_grad=True) for _ in range(2))
    return lstm, x, state


def check_against_float32(size, device="cpu"):
    lstm, x, state = problem(device)
    wanted, wanted_gradients = outputs_and_gradients(lstm, lstm, x, state, size)
    run = lambda *values: run_half(lstm, *values)  # noqa: E731
    got, gradients = outputs_and_gradients(run, lstm, x, state, size)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=3e-3, rtol=0)
    for one, other in zip(gradients, wanted_gradients, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 5e-3


# float16 itself holds 6e-8 to 65504.
@pytest.mark.parametrize("size", [1.0, 1e-12, 1e9])
def test_half_lstm_equals_float32_for_gradients_of_any_size(size):
    check_against_float32(size)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("size", [1.0, 1e-12, 1e9])
def test_half_lstm_equals_float32_on_a_gpu(size, recwarn):
    check_against_float32(size, "cuda")
    assert not any("contiguous chunk" in str(warning.message) for warning in recwarn)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_gradients_that_are_not_finite_do_not_become_finite(bad):
    lstm, x, _ = problem()
    y, _ = run_half(lstm, x, None)
    (y.flatten()[0] * bad).backward()
    assert not lstm.weight_ih_l0.grad.isfinite().all()


def test_gradients_of_nothing_are_0():
    lstm, x, _ = problem()
    y, _ = run_half(lstm, x, None)
    (0.0 * y.sum()).backward()
    assert not lstm.weight_hh_l1.grad.any()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_net_with_half_lstms_trains_and_continues_as_in_float32(precision):
    torch.manual_seed(0)
    nets = [RNNT(**NET, half_lstms=half) for half in (False, True)]
    nets[1].load_state_dict(nets[0].state_dict())
    speech, lengths = torch.randn(3, 10, 12), torch.tensor([10, 7, 4])
    labels = torch.randint(0, 5, (3, 4))
    results = []
    for net in nets:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            encoded, frames = net.encode(speech, lengths)
            first, state = net.predict(labels[:, :2], start=True)
            rest, _ = net.predict(labels[:, 2:], state)
            logits = net.join(encoded[:, :, None], torch.cat((first, rest), 1)[:, None])
        logits.float().square().mean().backward()
        assert frames.tolist() == [5, 4, 2]
        results.append([logits.detach().float(), *(p.grad for p in net.parameters())])
    for one, other in zip(*results, strict=True):
        assert float((one - other).norm() / other.norm()) < 0.03
    assert not torch.equal(results[0][0], results[1][0])
