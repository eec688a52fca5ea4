"""Router and experts against a loop over tokens; order of ties, empty experts, gradients."""

import pytest
import torch
import torch.nn.functional as F

from modules.llm.experts import MixtureOfExperts


def mixture(num_experts=6, chosen=3):
    torch.manual_seed(0)
    part = MixtureOfExperts(8, 16, num_experts, chosen)
    for weight in part.parameters():
        torch.nn.init.normal_(weight)
    return part


def by_loop(part, hidden_TC):
    """Each token through its experts; softmax over all experts, kept and normalised."""
    share_TE = F.linear(hidden_TC, part.gate.weight).softmax(-1)
    rows = []
    for token, share in zip(hidden_TC, share_TE, strict=True):
        best = share.topk(part.gate.experts_per_token)
        total = 0.0
        for weight, expert in zip(best.values / best.values.sum(), best.indices, strict=True):
            gate, up = (part.experts.gate_up_proj[expert] @ token).chunk(2)
            total = total + weight * (part.experts.down_proj[expert] @ (F.silu(gate) * up))
        rows.append(total)
    return torch.stack(rows)


# One token leaves experts without any row.
@pytest.mark.parametrize("tokens", [1, 2, 37])
def test_output_and_gradients_are_those_of_a_loop(tokens):
    part = mixture()
    hidden = torch.randn(1, tokens, 8, requires_grad=True)
    mine, theirs = part(hidden), by_loop(part, hidden[0])[None]
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    weights, target = [hidden, *part.parameters()], torch.randn_like(theirs)
    found = torch.autograd.grad((mine * target).sum(), weights)
    expected = torch.autograd.grad((theirs * target).sum(), weights)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    assert expected[1].abs().max() > 0  # the router learns


def test_equal_scores_go_to_the_lower_number():
    part = mixture()
    torch.nn.init.zeros_(part.gate.weight)
    share, expert = part.gate(torch.randn(4, 8))
    assert expert.tolist() == [[0, 1, 2]] * 4
    torch.testing.assert_close(share, torch.full((4, 3), 1 / 3))


def test_the_router_scores_in_single_precision():
    part = mixture()
    hidden = torch.randn(50, 8)
    with torch.autocast("cpu", torch.bfloat16):
        share, expert = part.gate(hidden)
    assert share.dtype == torch.float32
    assert torch.equal(share, part.gate(hidden)[0])
    assert torch.equal(expert, part.gate(hidden)[1])


def test_products_take_autocasts_type_and_return_the_inputs():
    part = mixture()
    hidden = torch.randn(2, 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        half = part(hidden)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, part(hidden), rtol=0.05, atol=1.0)


def test_a_constant_gradient_passes():
    """A sum's gradient is expanded, which grouped_mm's own backward refuses."""
    part = mixture()
    part(torch.randn(3, 4, 8)).sum().backward()
    assert all(weight.grad is not None for weight in part.parameters())
