"""Backbone weights for Mask R-CNN's demo, in the format of Detectron's R-50.pkl.

The benchmark starts from a ResNet-50 trained to classify images, with batch norm folded into
scales. The demo does the same on its scale: a narrow ResNet-50 learns to classify objects cropped
from the TRAINING scenes, then its blobs are written under Caffe2's names.
"""

import json
import pickle
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

BLOCKS = (3, 4, 6, 3)
MEAN_BGR = (102.9801, 115.9465, 122.7717)
CROP, STEPS, BATCH, RATE = 64, 120, 16, 0.05
LAST_SCALE = 0.2  # of each block's last norm: keeps activations small once the norms are frozen
EPS = 1e-5


def write_backbone(root: Path, *, width: int = 16, seed: int = 5) -> None:
    """Train and write ``R-50.pkl``; about 10 seconds on one CPU core."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _Blobs(width)
        crops, labels = _crops(root)
        head = torch.nn.Linear(32 * width, int(labels.max()) + 1)
        parameters = [*net.weights.values(), *head.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=0.9)
        for step in range(STEPS):
            pick = torch.randint(len(crops), (BATCH,))
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - step / STEPS)
            features = net(crops[pick], train=True).mean((2, 3))
            loss = F.cross_entropy(head(features), labels[pick])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with (root / "R-50.pkl").open("wb") as file:
        pickle.dump({"blobs": net.folded()}, file)


class _Blobs:
    """A ResNet-50 as a table of named blobs; norms keep running statistics."""

    def __init__(self, width: int) -> None:
        self.weights: dict[str, Tensor] = {}
        self.running: dict[str, tuple[Tensor, Tensor]] = {}
        self._add("conv1", "res_conv1_bn", width, 3, 7)
        inputs = width
        for stage, blocks in enumerate(BLOCKS):
            inner = width * 2**stage
            for block in range(blocks):
                name = f"res{stage + 2}_{block}"
                for branch, shape in (
                    ("branch2a", (inner, inputs, 1)),
                    ("branch2b", (inner, inner, 3)),
                    ("branch2c", (4 * inner, inner, 1)),
                ):
                    self._add(f"{name}_{branch}", f"{name}_{branch}_bn", *shape)
                self.weights[f"{name}_branch2c_bn_s"].data.fill_(LAST_SCALE)
                if block == 0:
                    self._add(f"{name}_branch1", f"{name}_branch1_bn", 4 * inner, inputs, 1)
                inputs = 4 * inner

    def _add(self, conv: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        weight = torch.empty(outputs, inputs, kernel, kernel)
        torch.nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
        self.weights[f"{conv}_w"] = weight.requires_grad_()
        self.weights[f"{norm}_s"] = torch.ones(outputs).requires_grad_()
        self.weights[f"{norm}_b"] = torch.zeros(outputs).requires_grad_()
        self.running[norm] = (torch.zeros(outputs), torch.ones(outputs))

    def __call__(self, x: Tensor, *, train: bool) -> Tensor:
        x = torch.relu(self._conv(x, "conv1", "res_conv1_bn", 2, 3, train))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage, blocks in enumerate(BLOCKS):
            for block in range(blocks):
                name, stride = f"res{stage + 2}_{block}", 2 if stage and block == 0 else 1
                y = torch.relu(self._branch(x, f"{name}_branch2a", stride, 0, train))
                y = torch.relu(self._branch(y, f"{name}_branch2b", 1, 1, train))
                y = self._branch(y, f"{name}_branch2c", 1, 0, train)
                if block == 0:
                    x = self._branch(x, f"{name}_branch1", stride, 0, train)
                x = torch.relu(x + y)
        return x

    def _branch(self, x: Tensor, name: str, stride: int, padding: int, train: bool) -> Tensor:
        return self._conv(x, name, f"{name}_bn", stride, padding, train)

    def _conv(
        self, x: Tensor, conv: str, norm: str, stride: int, padding: int, train: bool
    ) -> Tensor:
        x = F.conv2d(x, self.weights[f"{conv}_w"], stride=stride, padding=padding)
        mean, variance = self.running[norm]
        scale, shift = self.weights[f"{norm}_s"], self.weights[f"{norm}_b"]
        return F.batch_norm(x, mean, variance, scale, shift, train, 0.1, EPS)

    def folded(self) -> dict[str, np.ndarray]:
        """Return the blobs with running statistics folded into scale and shift."""
        blobs = {name: w.detach().numpy() for name, w in self.weights.items()}
        for norm, (mean, variance) in self.running.items():
            scale = blobs[f"{norm}_s"] / np.sqrt(variance.numpy() + EPS)
            blobs[f"{norm}_b"] = blobs[f"{norm}_b"] - mean.numpy() * scale
            blobs[f"{norm}_s"] = scale
        return blobs


def _crops(root: Path) -> tuple[Tensor, Tensor]:
    """Return the training scenes' objects, (N, 3, 64, 64) BGR minus mean, and their classes."""
    content = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    files = {image["id"]: image["file_name"] for image in content["images"]}
    classes = {category["id"]: k for k, category in enumerate(content["categories"])}
    crops, labels = [], []
    for record in content["annotations"]:
        x, y, w, h = record["bbox"]
        if record["iscrowd"] or min(w, h) < 2:
            continue
        with Image.open(root / "train2017" / files[record["image_id"]]) as image:
            # The margin shows background, which a detector must distinguish from objects.
            box = (x - w / 4, y - h / 4, x + 1.25 * w, y + 1.25 * h)
            pixels = image.convert("RGB").crop(tuple(map(round, box))).resize((CROP, CROP))
        crops.append(np.asarray(pixels, dtype=np.float32)[..., ::-1] - MEAN_BGR)
        labels.append(classes[record["category_id"]])
    stacked = np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2), dtype=np.float32)
    return torch.from_numpy(stacked), torch.tensor(labels)
