"""The reference net: parameter counts, golden output, an independent build of the same graph."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from modules.unet3d.net import UNet3D

SMALL = (4, 6, 10, 12)


def test_parameters_reference_are_those_of_the_specification():
    net = UNet3D()
    assert sum(p.numel() for p in net.parameters()) == 31_190_243
    assert len(list(net.parameters())) == 78


def test_parameters_per_block_are_those_of_the_specification():
    net = UNet3D()

    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(net.input_block) == 28_640
    assert [count(m) for m in net.down] == [166_144, 664_064, 2_655_232, 4_977_920, 5_530_880]
    assert [count(m) for m in net.up] == [9_115_200, 5_965_056, 1_589_888, 397_632, 99_488]
    assert count(net.output_conv) == 99


def test_forward_cost_is_that_of_the_specification():
    with torch.device("meta"):
        net, image = UNet3D(), torch.empty(1, 1, 128, 128, 128)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert net(image).shape == (1, 3, 128, 128, 128)
    assert counter.get_total_flops() / 1e9 == pytest.approx(954.6, abs=0.05)


def test_parameters_demo_are_those_of_the_specification():
    # The specification's [8, 16, 32] leaves the bottleneck out; here it is the last entry.
    assert sum(p.numel() for p in UNet3D(filters=(8, 16, 32, 32)).parameters()) == 231_915


def norm_relu(x_BCDHW, weight, bias):
    """Instance normalisation written out, then ReLU."""
    mean = x_BCDHW.mean((2, 3, 4), keepdim=True)
    variance = x_BCDHW.var((2, 3, 4), keepdim=True, unbiased=False)
    scaled = (x_BCDHW - mean) / (variance + 1e-5).sqrt()
    return (scaled * weight.view(1, -1, 1, 1, 1) + bias.view(1, -1, 1, 1, 1)).clamp(min=0)


def functional_unet(weights, image, levels):
    """The same graph from a flat list of tensors in the order of the log's names, recursively."""
    weights = iter(weights)

    def convs(x, stride):
        for step in (stride, 1):
            x = F.conv3d(x, next(weights), stride=step, padding=1)
            x = norm_relu(x, next(weights), next(weights))
        return x

    def up_convolve(x, weight, bias):
        # A transposed convolution without overlap is a matrix per voxel, spread over 2x2x2.
        spread = torch.einsum("bidhw,ioxyz->bodxhywz", x, weight)
        b, o, d, _, h, _, w, _ = spread.shape
        return spread.reshape(b, o, 2 * d, 2 * h, 2 * w) + bias.view(1, -1, 1, 1, 1)

    def level(x, depth):
        x = convs(x, 1 if depth == 0 else 2)
        if depth == levels - 1:
            return x
        below = level(x, depth + 1)
        return convs(torch.cat((up_convolve(below, next(weights), next(weights)), x), 1), 1)

    features = level(image, 0)
    logits = torch.einsum("bidhw,oi->bodhw", features, next(weights).flatten(1))
    return logits + next(weights).view(1, -1, 1, 1, 1)


def randomise_norms(net):
    """Weights 1 and biases 0 would hide a normalisation that ignores them."""
    for name, parameter in net.named_parameters():
        if ".norm." in name:
            torch.nn.init.normal_(parameter, mean=0.5)


def test_forward_equals_independent_build():
    torch.manual_seed(0)
    net = UNet3D(filters=SMALL).double()
    randomise_norms(net)
    image = torch.randn(2, 1, 16, 24, 32, dtype=torch.float64)
    expected = functional_unet(net.parameters(), image, len(SMALL))
    torch.testing.assert_close(net(image), expected, rtol=1e-9, atol=1e-9)


def test_gradient_equals_independent_build():
    torch.manual_seed(1)
    net = UNet3D(filters=(2, 3, 4)).double()
    randomise_norms(net)
    image = torch.randn(1, 1, 8, 8, 8, dtype=torch.float64)
    pull = torch.randn(1, 3, 8, 8, 8, dtype=torch.float64)
    parameters = list(net.parameters())
    got = torch.autograd.grad((net(image) * pull).sum(), parameters)
    expected = torch.autograd.grad((functional_unet(parameters, image, 3) * pull).sum(), parameters)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


def test_forward_equals_monai_blocks():
    """MONAI's convolution block and transposed convolution, given the same weights."""
    blocks = pytest.importorskip("monai.networks.blocks")
    torch.manual_seed(2)
    net = UNet3D(filters=(4, 6))
    randomise_norms(net)

    def monai_conv(i, o, stride):
        norm = ("instance", {"affine": True})
        return blocks.Convolution(
            3, i, o, strides=stride, kernel_size=3, bias=False, act="relu", norm=norm
        )

    twin = torch.nn.ModuleList(
        [monai_conv(1, 4, 1), monai_conv(4, 4, 1), monai_conv(4, 6, 2), monai_conv(6, 6, 1)]
        + [torch.nn.ConvTranspose3d(6, 4, 2, 2), monai_conv(8, 4, 1), monai_conv(4, 4, 1)]
        + [torch.nn.Conv3d(4, 3, 1)]
    )
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        theirs.data.copy_(mine.data)
    image = torch.randn(2, 1, 16, 16, 16)
    skip = twin[1](twin[0](image))
    below = twin[3](twin[2](skip))
    expected = twin[7](twin[6](twin[5](torch.cat((twin[4](below), skip), 1))))
    torch.testing.assert_close(net(image), expected, rtol=1e-4, atol=1e-5)


def test_forward_golden_values_of_seed_0():
    """Golden values: torch 2.11 CPU float32, seed 0, made by this net; they move with the graph."""
    torch.manual_seed(0)
    net = UNet3D(filters=(8, 16, 32))
    logits = net(torch.linspace(-2, 2, 16**3).reshape(1, 1, 16, 16, 16))
    assert logits.shape == (1, 3, 16, 16, 16)
    got = logits.mean((0, 2, 3, 4))
    torch.testing.assert_close(
        got, torch.tensor([-0.727962, -0.366537, -0.000311]), rtol=1e-4, atol=1e-5
    )
    assert logits.std().item() == pytest.approx(0.421997, rel=1e-4)


def test_initial_weights_stay_within_torch_default_bounds():
    torch.manual_seed(0)
    net = UNet3D(filters=(8, 16))
    conv, deconv = net.down[0][0].conv.weight, net.up[0].deconv.weight
    assert conv.abs().max() <= (8 * 27) ** -0.5
    assert conv.abs().max() > 0.95 * (8 * 27) ** -0.5
    # For a transposed convolution torch counts the output channels as fan-in.
    assert deconv.abs().max() <= (8 * 8) ** -0.5
    assert deconv.abs().max() > 0.95 * (8 * 8) ** -0.5
    assert torch.all(net.down[0][0].norm.weight == 1)
    assert torch.all(net.down[0][0].norm.bias == 0)


def test_forward_side_not_divisible_names_multiple_and_shape():
    with pytest.raises(
        ValueError, match=r"multiples of 4, got an input of shape \(1, 1, 8, 8, 6\)"
    ):
        UNet3D(filters=(2, 3, 4))(torch.zeros(1, 1, 8, 8, 6))


def test_net_one_level_is_an_error():
    with pytest.raises(ValueError, match="at least 2 levels"):
        UNet3D(filters=(8,))


def test_tensor_names_reference_are_those_of_its_log():
    names = UNet3D().tensor_names()
    assert len(names) == len(set(names)) == 4 + 5 * 4 + 5 * 5 + 1
    assert names[:2] == ["input_block_0_conv", "input_block_0_instancenorm"]
    assert {"down4_block_1_instancenorm", "up0_deconv", "up4_block_0_conv"} <= set(names)
    assert names[-1] == "output_conv"
