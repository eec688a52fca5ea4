"""Instance normalisation: torch's numbers, the input's layout, no copies between layouts."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from modules.unet3d.instance_norm import InstanceNorm3d
from modules.unet3d.net import ConvBlock, UNet3D

LAST = torch.channels_last_3d
COPIES = ("clone", "copy_", "_to_copy", "contiguous")


class CountCopies(TorchDispatchMode):
    """Counts the copies of five-dimensional tensors."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in COPIES and isinstance(result, torch.Tensor) and result.dim() == 5:
            self.counts[name] += 1
        return result


def network(norm):
    """A small U-Net with one kind of norm; the same weights every time."""
    torch.manual_seed(0)
    net = UNet3D(filters=(8, 16, 32))
    for part in net.modules():
        if isinstance(part, ConvBlock):
            part.norm = norm(part.norm.num_features, affine=True)
            nn.init.uniform_(part.norm.weight, 0.5, 1.5)
            nn.init.uniform_(part.norm.bias)
    return net.to(memory_format=LAST)


def step(net):
    """Copies, logits and gradients of one step."""
    # Two volumes: for a single small one torch takes a convolution without channels_last_3d.
    image = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    with CountCopies() as copies:
        logits = net(image)
        logits.square().mean().backward()
    return sum(copies.counts.values()), [logits.detach(), *(p.grad for p in net.parameters())]


def test_a_step_in_channels_last_copies_no_volume_and_has_torchs_numbers():
    ours, results = step(network(InstanceNorm3d))
    theirs, expected = step(network(nn.InstanceNorm3d))
    assert theirs > 20
    assert ours == 0
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-5)


def test_the_network_uses_it_under_torchs_names():
    block = ConvBlock(2, 4)
    assert type(block.norm) is InstanceNorm3d
    assert list(block.state_dict()) == ["conv.weight", "norm.weight", "norm.bias"]


@pytest.mark.parametrize("memory_format", [LAST, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("volumes", [1, 3])
def test_layout_and_numbers_are_kept(memory_format, dtype, volumes):
    x = torch.randn(volumes, 4, 5, 6, 7).to(dtype).contiguous(memory_format=memory_format)
    ours, theirs = InstanceNorm3d(4, affine=True), nn.InstanceNorm3d(4, affine=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        result, wanted = ours(x), theirs(x)
    assert result.is_contiguous(memory_format=memory_format)
    assert result.dtype == wanted.dtype == dtype
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 8e-3, "atol": 1e-2}
    torch.testing.assert_close(result, wanted, **close)
    if memory_format is torch.contiguous_format:
        assert torch.equal(result, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiler_gets_one_expression_for_all_volumes(dtype):
    sizes = []

    def backend(graph, inputs):
        sizes.append(len(graph.graph.nodes))
        return graph.forward

    ours = InstanceNorm3d(4, affine=True)
    nn.init.uniform_(ours.weight)
    for volumes in (2, 9):
        torch._dynamo.reset()
        x = torch.randn(volumes, 4, 5, 6, 7).to(dtype).contiguous(memory_format=LAST)
        results = [torch.compile(ours, backend=backend, fullgraph=True)(x), ours(x)]
        close = (1e-5, 1e-5) if dtype is torch.float32 else (8e-3, 1e-2)
        torch.testing.assert_close(*results, rtol=close[0], atol=close[1])
        assert results[0].is_contiguous(memory_format=LAST)
        assert results[0].dtype == dtype
    assert sizes[0] == sizes[1]
