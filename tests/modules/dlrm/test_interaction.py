"""DLRM's dot interaction against pairwise products."""

import torch

from modules.dlrm.interaction import dot_interaction


def test_interaction_of_a_hand_made_input():
    features = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    assert dot_interaction(features).tolist() == [[11.0, 17.0, 39.0]]


def test_interaction_and_gradient_equal_pairwise_products():
    torch.manual_seed(0)
    features = torch.randn(5, 6, 4, dtype=torch.float64, requires_grad=True)
    pairs = [(features[:, i] * features[:, j]).sum(1) for i in range(6) for j in range(i)]
    torch.testing.assert_close(dot_interaction(features), torch.stack(pairs, 1))
    assert torch.autograd.gradcheck(dot_interaction, (features,))


def test_interaction_under_autocast_has_its_type_and_trains():
    features = torch.randn(3, 4, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        pairs = dot_interaction(features)
    assert pairs.dtype == torch.bfloat16
    pairs.float().sum().backward()
    assert features.grad.dtype == torch.float32
    wanted = features.detach().sum(1, keepdim=True) - features.detach()
    torch.testing.assert_close(features.grad, wanted, rtol=0.05, atol=0.1)
