"""ResNet-50 as Caffe2 trained it: stride in the 1x1 convolution, batch norm frozen to a scale.

Input is BGR in 0..255 with the mean subtracted.
"""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

BLOCKS = (3, 4, 6, 3)
BRANCHES = {"branch2a": "1", "branch2b": "2", "branch2c": "3"}
# All that a pickle of arrays needs; anything else in the file is an error.
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
}


class FrozenNorm(FrozenBatchNorm2d):
    """torchvision's, but keeping half precision, which its own turns into single precision."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        # One kernel that computes in single precision and returns the input's type.
        mean, var = self.running_mean, self.running_var
        return torch.batch_norm(x, self.weight, self.bias, mean, var, False, 0.0, self.eps, False)


class Bottleneck(nn.Module):
    """1x1 (with the stride), 3x3 and 1x1 convolution to 4 * inner channels, plus a shortcut."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, stride=stride, bias=False)
        self.bn1 = FrozenNorm(inner, eps=0)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn2 = FrozenNorm(inner, eps=0)
        self.conv3 = nn.Conv2d(inner, 4 * inner, 1, bias=False)
        self.bn3 = FrozenNorm(4 * inner, eps=0)
        self.downsample: nn.Module = nn.Identity()
        if inputs != 4 * inner:
            shortcut = nn.Conv2d(inputs, 4 * inner, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, FrozenNorm(4 * inner, eps=0))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class CaffeResNet50(nn.Module):
    """Four stages whose outputs C2 to C5 feed the feature pyramid; stem and first stage frozen."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenNorm(width, eps=0)
        self.channels = [4 * width * 2**stage for stage in range(4)]
        inputs = width
        for stage, blocks in enumerate(BLOCKS):
            inner = width * 2**stage
            first = Bottleneck(inputs, inner, stride=1 if stage == 0 else 2)
            rest = (Bottleneck(4 * inner, inner, stride=1) for _ in range(blocks - 1))
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))
            inputs = 4 * inner
        for part in (self.conv1, self.layer1):
            part.requires_grad_(False)

    def forward(self, image_BCHW: Tensor) -> dict[str, Tensor]:
        """Return features at strides 4, 8, 16 and 32 under the names ``"0"`` to ``"3"``."""
        x = torch.relu(self.bn1(self.conv1(image_BCHW)))
        x = nn.functional.max_pool2d(x, 3, stride=2, padding=1)
        features = {}
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
            features[str(stage)] = x
        return features

    def load_blobs(self, blobs: Mapping[str, np.ndarray]) -> None:
        """Load weights and scales from Caffe2's blobs; other blobs are ignored."""
        state = self.state_dict()
        for own, blob in blob_names().items():
            if blob not in blobs or state[own].shape != blobs[blob].shape:
                got = blobs[blob].shape if blob in blobs else "nothing"
                raise ValueError(
                    f"backbone weights: blob {blob} must have shape {tuple(state[own].shape)}, "
                    f"got {got}; use Detectron's MSRA R-50.pkl"
                )
            state[own] = torch.from_numpy(np.array(blobs[blob], dtype=np.float32))
        self.load_state_dict(state)


def blob_names() -> dict[str, str]:
    """Map own names to blob names; running statistics have no blob and stay at 0 and 1."""
    names = {"conv1.weight": "conv1_w"} | _norm("bn1", "res_conv1_bn")
    for stage, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            own, blob = f"layer{stage + 1}.{block}", f"res{stage + 2}_{block}"
            for branch, number in BRANCHES.items():
                names[f"{own}.conv{number}.weight"] = f"{blob}_{branch}_w"
                names |= _norm(f"{own}.bn{number}", f"{blob}_{branch}_bn")
            if block == 0:
                names[f"{own}.downsample.0.weight"] = f"{blob}_branch1_w"
                names |= _norm(f"{own}.downsample.1", f"{blob}_branch1_bn")
    return names


def _norm(own: str, blob: str) -> dict[str, str]:
    return {f"{own}.weight": f"{blob}_s", f"{own}.bias": f"{blob}_b"}


def read_blobs(path: Path) -> dict[str, np.ndarray]:
    """Read a Caffe2 pickle (arrays by name, or under ``blobs``) without running code from it."""
    try:
        content = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError:
        raise
    except Exception as error:  # damaged pickles fail in many ways
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} is not a pickle of arrays ({reason}); download it again"
        ) from None
    blobs = content.get("blobs", content) if isinstance(content, dict) else None
    if not isinstance(blobs, dict) or not blobs:
        raise ValueError(f"{path} contains no blobs; use Detectron's MSRA R-50.pkl")
    return {name: array for name, array in blobs.items() if isinstance(array, np.ndarray)}


class _ArraysOnly(pickle.Unpickler):
    """Unpickler of NumPy arrays and plain containers, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it imports {module}.{name}, which no array needs")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
