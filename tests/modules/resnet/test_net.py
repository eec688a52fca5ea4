"""ResNet-50 against torchvision's with the same weights, and its initial weights by the numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torch import nn

from modules.resnet.net import ResNet


@pytest.fixture(scope="module")
def net() -> ResNet:
    torch.manual_seed(0)
    return ResNet()


def test_parameters_are_counted_as_the_reference_does(net: ResNet) -> None:
    convs = sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d))
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert convs == 23_454_912
    assert sum(p.numel() for m in norms for p in m.parameters()) == 53_120
    assert sum(p.numel() for p in net.fc.parameters()) == 2_049_000
    assert sum(p.numel() for p in net.parameters()) == 25_557_032
    assert len(norms) == sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 53
    assert sum(p.numel() for p in ResNet(num_classes=1001).parameters()) == 25_559_081
    assert sum(p.numel() for p in ResNet(num_classes=10, width=16).parameters()) == 1_486_106


@pytest.mark.parametrize("training", [False, True])
def test_output_equals_torchvision_with_the_same_weights(net: ResNet, training: bool) -> None:
    theirs = torchvision.models.resnet50()
    theirs.load_state_dict(net.state_dict())
    image = torch.randn(2, 3, 96, 96)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        ours_BK = net.train(training)(image)
        theirs_BK = theirs.train(training)(image)
    torch.testing.assert_close(ours_BK, theirs_BK, rtol=1e-4, atol=1e-5)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    net.load_state_dict(state)


def test_batch_norms_have_the_references_figures(net: ResNet) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.momentum, module.eps) == (0.1, 1e-5)
            assert torch.all(module.weight == 1)  # the last of a block too
            assert torch.all(module.bias == 0)


def test_convolutions_start_with_a_truncated_normal_of_variance_two_over_fan_in(
    net: ResNet,
) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach()
            wanted = math.sqrt(2 / weight[0].numel())
            error = 5 * wanted / math.sqrt(2 * weight.numel())
            assert weight.std().item() == pytest.approx(wanted, abs=error)
            assert weight.abs().max() <= 2 * wanted / 0.87962566 * 1.0001
            assert module.bias is None


def test_head_starts_narrow_and_without_bias(net: ResNet) -> None:
    assert net.fc.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert net.fc.weight.abs().max() > 0.04  # not truncated
    assert torch.all(net.fc.bias == 0)


def test_stride_sits_in_the_3x3_convolution(net: ResNet) -> None:
    first = net.layer2[0]
    strides = [conv.stride for conv in (first.conv1, first.conv2, first.conv3)]
    assert strides == [(1, 1), (2, 2), (1, 1)]


@pytest.mark.parametrize("bad", [{"num_classes": 0}, {"width": 0}, {"blocks": (3, 4, 6)}])
def test_impossible_sizes_are_rejected(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="four stages"):
        ResNet(**bad)  # type: ignore[arg-type]
