"""SSD: default boxes, matching, loss and detections against plain formulas; backbone weights."""

import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.models import resnet34
from torchvision.ops import box_iou, nms

from modules.detection.ssd import SSDModule
from modules.detection.ssd.default_boxes import decode, default_boxes, encode, match
from modules.detection.ssd.heads import ssd_detections, ssd_loss
from modules.detection.ssd.net import SSD300


def test_default_boxes_have_the_reference_values():
    boxes = default_boxes()
    assert boxes.shape == (8732, 4)
    expected = {
        0: (0.0133333, 0.0133333, 0.07, 0.07),
        1: (0.04, 0.0133333, 0.07, 0.07),
        # Second shape of the first level: the mean of two scales.
        1444: (0.0133333, 0.0133333, math.sqrt(21 * 45) / 300, math.sqrt(21 * 45) / 300),
        8731: (0.5, 0.5, 0.615183, 1.0),
    }
    for index, box in expected.items():
        torch.testing.assert_close(boxes[index], torch.tensor(box), atol=1e-6, rtol=0)
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    # Last column of the third level would be 1.01333 without the clamp.
    third = 38 * 38 * 4 + 19 * 19 * 6
    assert boxes[third + 9, 0] == 1.0


def test_reference_has_the_published_size_and_outputs():
    net = SSD300()
    assert sum(p.numel() for p in net.parameters()) == 19_972_534
    location, logits = net.eval().predict(torch.zeros(1, 3, 300, 300, dtype=torch.uint8))
    assert location.shape == (1, 4, 8732)
    assert logits.shape == (1, 81, 8732)


def random_truth(seed, batch=3, most=5):
    g = torch.Generator().manual_seed(seed)
    low = torch.rand(batch, most, 2, generator=g) * 0.6
    boxes = torch.cat([low, low + 0.05 + torch.rand(batch, most, 2, generator=g) * 0.35], -1)
    labels = torch.randint(1, 4, (batch, most), generator=g)
    labels[0, 2:] = 0
    labels[-1] = 0
    return boxes, labels


def plain_match(default, boxes, labels):
    """The reference's rule, one image at a time with loops."""
    boxes, labels = boxes[labels > 0], labels[labels > 0]
    label_A, owner = torch.zeros(len(default), dtype=torch.int64), torch.zeros(len(default)).long()
    if not len(boxes):
        return label_A, owner
    corners = torch.cat(
        [default[:, :2] - default[:, 2:] / 2, default[:, :2] + default[:, 2:] / 2], 1
    )
    iou = box_iou(boxes, corners)
    best, owner = iou.max(0)
    for g in range(len(boxes)):
        a = int(iou[g].argmax())
        best[a], owner[a] = 2.0, g
    positive = best > 0.5
    return torch.where(positive, labels[owner], 0), owner


def test_matching_equals_the_plain_rule():
    default = default_boxes()
    boxes, labels = random_truth(0)
    boxes[1, 1] = boxes[1, 0]  # two objects at one place: the later one has the default box
    label_BA, box_BA4 = match(default, boxes, labels)
    for image in range(3):
        label, owner = plain_match(default, boxes[image], labels[image])
        assert torch.equal(label_BA[image], label)
        positive = label > 0
        assert torch.equal(box_BA4[image][positive], boxes[image][owner[positive]])
    assert int((label_BA[-1] > 0).sum()) == 0


def plain_loss(location, logits, default, boxes, labels):
    total = 0.0
    for image in range(len(boxes)):
        label, owner = plain_match(default, boxes[image], labels[image])
        positive = label > 0
        count = int(positive.sum())
        if count == 0:
            continue
        g = boxes[image][owner[positive]]
        d = default[positive]
        centre, size = (g[:, :2] + g[:, 2:]) / 2, g[:, 2:] - g[:, :2]
        t = torch.cat([(centre - d[:, :2]) / d[:, 2:] / 0.1, (size / d[:, 2:]).log() / 0.2], 1)
        diff = (location[image].T[positive] - t).abs()
        box = torch.where(diff < 1, 0.5 * diff**2, diff - 0.5).sum()
        entropy = -logits[image].log_softmax(0).gather(0, label[None])[0]
        negatives = entropy[~positive].sort(descending=True).values[: 3 * count]
        total += (box + entropy[positive].sum() + negatives.sum()) / count
    return total / len(boxes)


def test_loss_equals_the_plain_formula():
    default = default_boxes()
    boxes, labels = random_truth(1)
    g = torch.Generator().manual_seed(2)
    location = torch.randn(3, 4, 8732, generator=g)
    logits = torch.randn(3, 4, 8732, generator=g, requires_grad=True)
    losses = ssd_loss(location, logits, default, boxes, labels)
    expected = plain_loss(location, logits, default, boxes, labels)
    torch.testing.assert_close(losses["box"] + losses["class"], expected, rtol=1e-5, atol=1e-5)
    (losses["box"] + losses["class"]).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[-1].abs().sum() == 0  # no object, no loss


def test_decode_undoes_encode():
    default = default_boxes()
    boxes, _ = random_truth(3, batch=1, most=1)
    target = boxes[0].expand(8732, 4)[None]
    torch.testing.assert_close(decode(default, encode(default, target)), target, atol=1e-5, rtol=0)


def test_extreme_predictions_make_finite_boxes():
    default = default_boxes()
    assert decode(default, torch.full((1, 8732, 4), 1e6)).isfinite().all()


def test_detections_equal_a_plain_loop():
    default = default_boxes()
    g = torch.Generator().manual_seed(5)
    location = torch.randn(2, 4, 8732, generator=g) * 0.3
    logits = torch.randn(2, 4, 8732, generator=g) * 2
    logits[1, 0] += 20  # the second image finds nothing
    found = ssd_detections(location, logits, default)
    boxes, scores = decode(default, location.transpose(1, 2))[0], logits[0].softmax(0)
    kept = []
    for label in range(1, 4):
        rows = (scores[label] > 0.05).nonzero()[:, 0]
        rows = rows[scores[label][rows].argsort(descending=True)][:200]
        keep = nms(boxes[rows], scores[label][rows], 0.4999999701976776)
        kept += [(float(scores[label][r]), label, boxes[r].tolist()) for r in rows[keep]]
    kept = sorted(kept, key=lambda k: -k[0])[:200]
    np.testing.assert_allclose(found[0]["scores"], [k[0] for k in kept])
    assert found[0]["labels"].tolist() == [k[1] for k in kept]
    np.testing.assert_allclose(found[0]["boxes"], [k[2] for k in kept], atol=1e-6)
    assert len(found[1]["scores"]) == 0


@pytest.mark.parametrize("part", [0, 1])
def test_diverged_network_is_an_error_and_no_empty_image(part):
    outputs = [torch.zeros(1, 4, 8732), torch.zeros(1, 4, 8732)]
    outputs[part][0, 2, 5] = math.nan
    with pytest.raises(ValueError, match="has diverged"):
        ssd_detections(*outputs, default_boxes())


def test_backbone_loads_torchvision_weights_and_gives_their_features():
    source = resnet34(weights=None).eval()
    net = SSD300().eval()
    net.load_backbone(source.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        x = source.maxpool(source.relu(source.bn1(source.conv1(image))))
        x = source.layer2(source.layer1(x))
        block = source.layer3[0]
        block.conv1.stride, block.downsample[0].stride = (1, 1), (1, 1)
        torch.testing.assert_close(net.backbone(image), source.layer3(x))


def test_backbone_rejects_other_weights():
    state = resnet34(weights=None).state_dict()
    del state["layer2.0.conv1.weight"]
    with pytest.raises(ValueError, match=r"layer2\.0\.conv1\.weight must have shape"):
        SSD300().load_backbone(state)


class Evil:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("fault", ["cut short", "empty", "a web page", "code"])
def test_damaged_backbone_file_is_named_and_nothing_in_it_is_run(fault, tmp_path):
    path, marker = tmp_path / "resnet34.pth", tmp_path / "ran"
    torch.save({"conv1.weight": torch.zeros(9)}, path)
    content = {
        "cut short": path.read_bytes()[:-50],
        "empty": b"",
        "a web page": b"<html>404</html>",
        "code": pickle.dumps({"conv1.weight": Evil(str(marker))}, protocol=2),
    }[fault]
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"resnet34\.pth is truncated or not a weights file"
    ) as error:
        SSDModule(net=lambda: SSD300(4, 8)).read_weights(path)
    assert len(str(error.value).splitlines()) == 1
    assert not marker.exists()


def test_flipped_bit_in_the_backbone_file_is_named(tmp_path):
    path = tmp_path / "resnet34.pth"
    torch.save({"conv1.weight": torch.arange(999.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(999.0).numpy().tobytes()) + 400] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"resnet34\.pth is truncated or not a weights file"):
        SSDModule(net=lambda: SSD300(4, 8)).read_weights(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_backbone_with_values_that_are_not_finite_is_refused(value, tmp_path):
    path = tmp_path / "resnet34.pth"
    state = SSD300(4, 8).backbone.state_dict()
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = value
    torch.save(state, path)
    module = SSDModule(net=lambda: SSD300(4, 8), backbone_weights=path)
    module._trainer = SimpleNamespace(datamodule=None)
    with pytest.raises(ValueError, match="resnet34.pth has values that are not finite in back"):
        module.setup("fit")


def test_a_small_batch_is_learnt():
    torch.manual_seed(0)
    net = SSD300(4, 8)
    image = torch.randint(0, 256, (2, 3, 300, 300), dtype=torch.uint8)
    boxes, labels = random_truth(4, batch=2, most=2)
    targets = {"boxes": boxes, "labels": torch.tensor([[1, 2], [3, 0]])}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for _ in range(12):
        loss = sum(net(image, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert F.relu(torch.tensor(losses)).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3])
def test_warm_up_traces_a_compiled_net_for_every_batch(size):
    """Numbers of boxes, of candidates and of detections change from batch to batch."""
    made, graphs = SSDModule(net=lambda: SSD300(4, width=8)), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    def batch(count, most):
        boxes, labels = random_truth(most, count, most)
        image = torch.randint(0, 256, (count, 3, 300, 300), dtype=torch.uint8)
        return {"image": image, "boxes": boxes, "labels": labels}

    made._trainer = SimpleNamespace(
        datamodule=SimpleNamespace(evaluation_batch_size=4),
        global_step=0,
        log_every_n_steps=0,
    )
    made.net.compile(backend=backend)
    made.training_step(batch(size, 16), 0).backward()
    assert len(graphs) == 1
    with torch.no_grad():
        made.eval().warm_up_evaluation()
    traced = len(graphs)
    for most in (32, 48):
        made.train().training_step(batch(size, most), 0)
    made.eval()
    with torch.no_grad():
        for count, bias in ((4, 3.0), (3, 0.0), (2, 30.0), (1, 3.0)):
            for head in made.net.confidence:
                head.bias.data[: len(head.bias) // 4] = bias  # of the background
            made.net(batch(count, 16)["image"])
    assert len(graphs) == traced
