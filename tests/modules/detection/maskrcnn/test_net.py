"""Mask R-CNN's parts against plain formulas, pycocotools and torchvision where both must agree."""

import math
import pickle

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import nn
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops import nms as plain_nms

from modules.detection.maskrcnn.anchors import anchor_grid, base_anchors
from modules.detection.maskrcnn.backbone import CaffeResNet50, FrozenNorm, blob_names, read_blobs
from modules.detection.maskrcnn.box_coding import (
    HEAD_WEIGHTS,
    RPN_WEIGHTS,
    clip_boxes,
    decode_boxes,
    encode_boxes,
)
from modules.detection.maskrcnn.instance_masks import (
    place_mask,
    polygon_targets,
    run_lengths,
    whole_mask,
)
from modules.detection.maskrcnn.net import MaskHead, MaskRCNN
from modules.detection.maskrcnn.region_matching import (
    IGNORED,
    NEGATIVE,
    match_anchors,
    match_proposals,
    pixel_nms,
    sample_regions,
)
from modules.detection.maskrcnn.roi_heads import (
    Regions,
    box_losses,
    detect,
    mask_loss,
    pool_regions,
)
from modules.detection.maskrcnn.rpn import Limits, propose, rpn_losses

TINY = {
    "num_classes": 4, "width": 8, "pyramid_channels": 16, "box_features": 16, "mask_channels": 8,
    "anchor_sizes": (16, 32, 64, 128, 256), "proposals": 50, "evaluation_proposals": 20,
    "anchors_per_image": 16, "regions_per_image": 16,
}  # fmt: skip


def random_boxes(seed, count, limit=100.0):
    g = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=g) * limit * 0.6
    return torch.cat([low, low + 2 + torch.rand(count, 2, generator=g) * limit * 0.35], 1)


def plain_iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(w, 0) * max(h, 0)
    area = [(x[2] - x[0] + 1) * (x[3] - x[1] + 1) for x in (a, b)]
    return shared / (sum(area) - shared)


def test_reference_has_the_published_size():
    net = MaskRCNN()
    trained = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    assert sum(p.numel() for p in net.parameters()) == 44_347_573
    assert sum(p.numel() for _, p in trained) == 44_125_173
    assert len(trained) == 84
    assert sum("bias" in name for name, _ in trained) == 21
    parts = {
        "body": net.backbone, "fpn": net.fpn, "rpn": net.rpn, "mask": net.mask_head,
    }  # fmt: skip
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    assert sizes == {
        "body": 23_454_912, "fpn": 3_344_384, "rpn": 593_935, "mask": 2_360_320 + 283_217,
    }  # fmt: skip


def test_anchors_are_the_legacy_ones():
    expected = {
        (4, 32): [[-22, -10, 25, 13], [-14, -14, 17, 17], [-10, -22, 13, 25]],
        (64, 512): [[-332, -152, 395, 215], [-224, -224, 287, 287], [-148, -328, 211, 391]],
    }
    for (stride, size), boxes in expected.items():
        assert base_anchors(stride, size).tolist() == boxes
    grid = anchor_grid(2, 3, 4, 32, torch.device("cpu"))
    assert grid[3 * 1].tolist() == [-22 + 4, -10, 25 + 4, 13]  # next column
    assert grid[3 * 3 + 1].tolist() == [-14, -14 + 4, 17, 17 + 4]  # next row, second ratio


@pytest.mark.parametrize("weights", [RPN_WEIGHTS, HEAD_WEIGHTS])
def test_box_coding_is_the_formula_and_undoes_itself(weights):
    boxes, anchors = random_boxes(0, 20), random_boxes(1, 20)
    code = encode_boxes(boxes, anchors, weights)
    for b, a, c in zip(boxes.tolist(), anchors.tolist(), code.tolist(), strict=True):
        w, h, aw, ah = b[2] - b[0] + 1, b[3] - b[1] + 1, a[2] - a[0] + 1, a[3] - a[1] + 1
        assert c[0] == pytest.approx(weights[0] * (b[0] + w / 2 - a[0] - aw / 2) / aw, abs=1e-4)
        assert c[3] == pytest.approx(weights[1] * math.log(h / ah), abs=1e-4)
    torch.testing.assert_close(decode_boxes(code, anchors, weights), boxes, atol=1e-3, rtol=0)
    huge = decode_boxes(torch.full((20, 4), 100.0), anchors, weights)
    side = (anchors[:, 2] - anchors[:, 0] + 1) * 1000 / 16
    torch.testing.assert_close(huge[:, 2] - huge[:, 0] + 1, side, rtol=1e-3, atol=1e-2)


def test_anchor_matching_equals_the_plain_rule():
    anchors = torch.cat([random_boxes(2, 60), random_boxes(2, 60) + 30])
    truth = random_boxes(3, 5)
    iou = np.array([[plain_iou(t, a) for a in anchors.tolist()] for t in truth.tolist()])
    expected = []
    for a in range(len(anchors)):
        best = int(iou[:, a].argmax())
        value = NEGATIVE if iou[best, a] < 0.3 else IGNORED
        if iou[best, a] >= 0.7 or any(iou[g, a] >= iou[g].max() - 1e-7 for g in range(5)):
            value = best
        x1, y1, x2, y2 = anchors[a].tolist()
        inside = x1 >= 0 and y1 >= 0 and x2 < 100 and y2 < 90
        expected.append(value if inside else IGNORED)
    assert match_anchors(anchors, truth, 90, 100).tolist() == expected
    assert {NEGATIVE, IGNORED} < set(expected)
    assert (match_anchors(anchors, truth[:0], 1000, 1000) == NEGATIVE).all()


def test_proposal_matching_has_no_ignored_band():
    proposals, truth = random_boxes(4, 80), random_boxes(5, 4)
    iou = np.array([[plain_iou(t, p) for p in proposals.tolist()] for t in truth.tolist()])
    expected = np.where(iou.max(0) >= 0.5, iou.argmax(0), NEGATIVE)
    assert match_proposals(proposals, truth).tolist() == expected.tolist()


def test_sampling_keeps_the_counts_and_repeats_nothing():
    match = torch.tensor([0] * 30 + [NEGATIVE] * 50 + [IGNORED] * 20)
    positive, negative = sample_regions(match, 32, 8)
    assert len(positive) == len(set(positive.tolist())) == 8
    assert len(negative) == len(set(negative.tolist())) == 24
    assert (match[positive] >= 0).all()
    assert (match[negative] == NEGATIVE).all()
    positive, negative = sample_regions(match[:30], 32, 8)
    assert (len(positive), len(negative)) == (8, 0)


def test_pixel_nms_equals_a_plain_loop():
    boxes, scores = random_boxes(6, 60), torch.rand(60, generator=torch.Generator().manual_seed(0))
    kept = []
    for i in scores.argsort(descending=True).tolist():
        if all(plain_iou(boxes[i].tolist(), boxes[k].tolist()) <= 0.5 for k in kept):
            kept.append(i)
    assert pixel_nms(boxes, scores, 0.5).tolist() == kept


def test_training_pools_proposals_over_the_batch_and_evaluation_does_not():
    anchors = [random_boxes(7, 40)]
    logits = [torch.stack([torch.full((40,), 5.0) + torch.arange(40) / 100, torch.zeros(40)])]
    codes = [torch.zeros(2, 40, 4)]
    sizes = [(200, 200), (200, 200)]
    pooled = propose(anchors, logits, codes, sizes, Limits(40, 6), pooled=True)
    assert [len(p) for p in pooled] == [6, 0]  # the first image's scores are all higher
    single = propose(anchors, logits, codes, sizes, Limits(40, 6), pooled=False)
    assert [len(p) for p in single] == [6, 6]


def test_proposals_equal_torchvision_where_conventions_meet():
    """Boxes far apart and inside the image: the +1 of widths changes no decision then."""
    x = torch.arange(8) * 40.0
    anchors = torch.stack([x, x, x + 19, x + 19], 1)
    logits = torch.randn(8, generator=torch.Generator().manual_seed(1))
    ours = propose([anchors], [logits[None]], [torch.zeros(1, 8, 4)], [(400, 400)], Limits(5, 4),
                   pooled=False)[0]  # fmt: skip
    rpn = RegionProposalNetwork(
        None, None, 0.7, 0.3, 256, 0.5, {"training": 5, "testing": 5},
        {"training": 4, "testing": 4}, 0.7,
    ).eval()  # fmt: skip
    theirs, _ = rpn.filter_proposals(anchors[None], logits[None], [(400, 400)], [8])
    torch.testing.assert_close(ours, theirs[0])


def test_rpn_losses_equal_the_plain_formula():
    anchors, truth = random_boxes(8, 30), random_boxes(9, 2)
    logit, code = torch.randn(1, 30), torch.randn(1, 30, 4)
    losses = rpn_losses(anchors, logit, code, [truth], [(200, 200)], 1000)  # all are sampled
    match = match_anchors(anchors, truth, 200, 200)
    picked = match != IGNORED
    wanted = (match >= 0).float()
    p = logit[0].sigmoid()
    entropy = -(wanted * p.log() + (1 - wanted) * (1 - p).log())
    torch.testing.assert_close(losses["objectness"], entropy[picked].mean(), rtol=1e-4, atol=1e-5)
    positive = match >= 0
    target = encode_boxes(truth[match[positive]], anchors[positive], RPN_WEIGHTS)
    d = (code[0][positive] - target).abs()
    box = torch.where(d < 1 / 9, 4.5 * d**2, d - 1 / 18).sum() / picked.sum()
    torch.testing.assert_close(losses["rpn_box"], box, rtol=1e-4, atol=1e-5)


def test_pooling_equals_torchvision_and_small_regions_come_from_the_finest_level():
    features = {str(k): torch.randn(2, 3, 256 // 2**k, 256 // 2**k) for k in range(4)}
    boxes = [random_boxes(10, 12, 900.0), random_boxes(11, 9, 100.0)]
    ours = pool_regions(list(features.values()), boxes, 7)
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    theirs = pooler(features, boxes, [(1024, 1024)] * 2)
    # Away from the level borders the +1 of the area changes no level.
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_half_precision_moves_no_region():
    g = torch.Generator().manual_seed(1)
    rough = [torch.randn(1, 3, 256 // 2**k, 256 // 2**k, generator=g).bfloat16() for k in range(4)]
    boxes = [random_boxes(10, 30, 900.0)]
    exact = pool_regions([feature.float() for feature in rough], boxes, 7)
    torch.testing.assert_close(pool_regions(rough, boxes, 7), exact.bfloat16())


def test_box_losses_equal_the_plain_formula():
    g = torch.Generator().manual_seed(12)
    boxes, truth = random_boxes(12, 6), random_boxes(13, 2)
    regions = Regions(boxes, torch.tensor([2, 1, 0, 0, 0, 0]), torch.tensor([1, 0]), 2)
    logits, codes = torch.randn(6, 4, generator=g), torch.randn(6, 4, 4, generator=g)
    losses = box_losses(logits, codes, [regions], [truth])
    entropy = -logits.log_softmax(1)[torch.arange(6), regions.label].mean()
    torch.testing.assert_close(losses["class"], entropy)
    d = (
        torch.stack([codes[0, 2], codes[1, 1]])
        - encode_boxes(truth[[1, 0]], boxes[:2], HEAD_WEIGHTS)
    ).abs()
    torch.testing.assert_close(losses["box"], torch.where(d < 1, d**2 / 2, d - 0.5).sum() / 6)


def test_mask_targets_equal_pycocotools():
    ring = np.array([[10.3, 12.1], [40.9, 15.0], [35.2, 44.4], [12.0, 38.7]])
    second = np.array([[30.0, 5.0], [50.0, 8.0], [41.0, 20.0]])
    box = torch.tensor([[8.0, 4.0, 45.5, 40.0], [20.0, 20.0, 20.2, 30.0]])
    ours = polygon_targets([[ring, second], [ring]], box)
    for target, rings, corners in zip(ours, [[ring, second], [ring]], box.tolist(), strict=True):
        w, h = max(corners[2] - corners[0], 1), max(corners[3] - corners[1], 1)
        flat = [((r - corners[:2]) * [28 / w, 28 / h]).reshape(-1).tolist() for r in rings]
        expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, 28, 28)))
        assert np.array_equal(target.numpy(), expected)
    assert 0 < float(ours[0].mean()) < 1


def test_placed_masks_equal_torchvision_and_their_run_lengths_those_of_the_whole_image():
    g = torch.Generator().manual_seed(14)
    boxes = random_boxes(15, 40) - 10  # some leave the image
    boxes[0], boxes[1] = torch.tensor([[-30.0, -40.0, 200.0, 180.0], [5.0, -300.0, 60.0, 500.0]])
    boxes[2] = torch.tensor([400.0, 400.0, 420.0, 430.0])  # outside
    masks = torch.rand(40, 28, 28, generator=g)
    masks[0], masks[1], masks[3] = 1.0, 1.0, 0.0  # everything, whole columns, nothing
    theirs = paste_masks_in_image(masks[:, None], boxes, (90, 110), padding=1)[:, 0] > 0.5
    ours = [
        run_lengths(place_mask(m, b, 90, 110), 90, 110)
        for m, b in zip(masks, boxes.tolist(), strict=True)
    ]
    whole = [coco_mask.encode(np.asfortranarray(m.numpy().astype(np.uint8))) for m in theirs]
    assert ours == [runs["counts"] for runs in whole]
    assert np.array_equal(np.stack([whole_mask(c, 90, 110) for c in ours]), theirs.numpy())
    assert theirs[0].all()


def test_mask_of_the_true_class_equals_the_choice_among_all():
    torch.manual_seed(0)
    head = MaskHead(6, 5, 4)
    nn.init.normal_(head[-1].bias)
    pooled, label = torch.randn(3, 6, 14, 14), torch.tensor([3, 1, 3])
    every = nn.Sequential.forward(head, pooled)
    chosen = every[torch.arange(3), label]
    target = (torch.rand(3, 28, 28) > 0.5).float()
    wanted = torch.autograd.grad(
        nn.functional.binary_cross_entropy_with_logits(chosen, target), list(head.parameters())
    )
    loss = mask_loss(head(pooled, label), target)
    torch.testing.assert_close(head(pooled, label), chosen)
    for found, right in zip(
        torch.autograd.grad(loss, list(head.parameters())), wanted, strict=True
    ):
        torch.testing.assert_close(found, right)
    nothing = mask_loss(head(pooled[:0], label[:0]), target[:0])
    nothing.backward()
    assert float(nothing) == 0
    assert all(not parameter.grad.any() for parameter in head.parameters())


def test_detect_equals_a_plain_loop():
    proposals = random_boxes(16, 150, 300.0)
    logits, codes = torch.randn(150, 4) * 2, torch.randn(150, 4, 4)
    found = detect(logits, codes, proposals, (250, 300))
    scores = logits.softmax(1)
    boxes = clip_boxes(decode_boxes(codes, proposals, HEAD_WEIGHTS), 250, 300)
    kept = []
    for label in range(1, 4):
        rows = (scores[:, label] > 0.05).nonzero()[:, 0]
        far = boxes[rows, label] + torch.tensor([0, 0, 1, 1])
        keep = rows[plain_nms(far, scores[rows, label], 0.5)]
        kept += [(float(scores[r, label]), label) for r in keep.tolist()]
    kept = sorted(kept, reverse=True)[:100]
    pairs = zip(found["scores"].tolist(), found["labels"].tolist(), strict=True)
    assert sorted(pairs, reverse=True) == kept


def test_network_trains_and_detects_also_without_objects():
    torch.manual_seed(0)
    net = MaskRCNN(**TINY)
    image = torch.randint(0, 256, (2, 3, 96, 128), dtype=torch.uint8)
    size = torch.tensor([[90, 128], [96, 100]])
    ring = np.array([[10.0, 10], [60, 10], [60, 70], [10, 70]], np.float32)
    targets = {
        "boxes": [torch.tensor([[10.0, 10, 60, 70]]), torch.zeros(0, 4)],
        "labels": [torch.tensor([2]), torch.zeros(0, dtype=torch.int64)],
        "polygons": [[[ring]], []],
    }
    losses = net(image, size, targets)
    assert set(losses) == {"objectness", "rpn_box", "class", "box", "mask"}
    sum(losses.values()).backward()
    grads = {name: p.grad for name, p in net.named_parameters()}
    assert grads["backbone.conv1.weight"] is None
    assert grads["backbone.layer1.0.conv1.weight"] is None
    assert grads["backbone.layer2.0.conv1.weight"].abs().sum() > 0
    with torch.no_grad():
        found = net.eval()(image, size)
    for one, (height, width) in zip(found, size.tolist(), strict=True):
        assert one["masks"].shape == (len(one["boxes"]), 28, 28)
        assert one["boxes"][:, 2].max() <= width - 1
        assert one["boxes"][:, 3].max() <= height - 1


def test_incomplete_batch_is_cut_to_the_proposals_of_a_full_one(monkeypatch):
    cuts = []

    def cut(*arguments, **options):
        cuts.append(arguments[4].over_levels)
        return propose(*arguments, **options)

    monkeypatch.setattr("modules.detection.maskrcnn.net.propose", cut)
    net = MaskRCNN(**TINY)
    ring = np.array([[10.0, 10], [60, 10], [60, 70], [10, 70]], np.float32)
    targets = {
        "boxes": [torch.tensor([[10.0, 10, 60, 70]])],
        "labels": [torch.tensor([2])],
        "polygons": [[[ring]]],
    }
    image, size = torch.zeros(1, 3, 96, 96, dtype=torch.uint8), torch.tensor([[96, 96]])
    for net.batch_size in (None, 12):
        net(image, size, targets)
    assert cuts == [50, 50 * 6]


@pytest.mark.parametrize(
    "part",
    ["rpn.bbox_pred", "rpn.cls_logits", "fpn.inner_blocks.0.0", "box_head.box", "mask_head.6"],
)
def test_diverged_network_has_no_loss_and_detects_nothing_quietly(part):
    """NaN must reach the loss, which ends the run, and never become a score of 0."""
    torch.manual_seed(0)
    net = MaskRCNN(**TINY)
    net.get_submodule(part).weight.data[:] = math.nan
    image = torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8)
    ring = np.array([[10.0, 10], [60, 10], [60, 70], [10, 70]], np.float32)
    targets = {
        "boxes": [torch.tensor([[10.0, 10, 60, 70]])],
        "labels": [torch.tensor([2])],
        "polygons": [[[ring]]],
    }
    losses = net(image, torch.tensor([[90, 128]]), targets)
    assert any(loss.isnan() for loss in losses.values())
    with torch.no_grad(), pytest.raises(ValueError, match="has diverged"):
        net.eval()(image, torch.tensor([[90, 128]]))


def test_mask_in_a_box_that_is_not_finite_is_an_error():
    with pytest.raises(ValueError, match="not finite"):
        place_mask(torch.ones(28, 28), [0.0, math.nan, 5.0, 5.0], 20, 20)


def test_input_is_bgr_minus_mean_with_zero_padding():
    net = MaskRCNN(**TINY)
    image = torch.zeros(1, 3, 32, 64, dtype=torch.uint8)
    image[:, 0] = 200  # red
    x = net.normalise(image, [(32, 40)])
    expected = torch.tensor([-102.9801, -115.9465, 200 - 122.7717])
    torch.testing.assert_close(x[0, :, 5, 5], expected)
    assert x[..., 40:].abs().sum() == 0


def test_backbone_file_is_read_and_nothing_in_it_is_run(tmp_path):
    net = CaffeResNet50(8)
    g = np.random.default_rng(0)
    state = net.state_dict()
    blobs = {
        b: g.normal(size=tuple(state[n].shape)).astype(np.float32) for n, b in blob_names().items()
    }
    extra = {"fc1000_w": np.zeros(3), "conv1_b": np.zeros(8), "conv1_w_momentum": np.zeros(1)}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs | extra}, protocol=2))
    net.load_blobs(read_blobs(path))
    assert np.array_equal(net.layer3[0].downsample[1].weight, blobs["res4_0_branch1_bn_s"])
    x = torch.randn(1, 8, 4, 4)
    scale, shift = (torch.from_numpy(blobs[f"res_conv1_bn_{k}"]).view(1, 8, 1, 1) for k in "sb")
    torch.testing.assert_close(net.bn1(x), x * scale + shift)

    marker = tmp_path / "ran"
    path.write_bytes(pickle.dumps({"conv1_w": Evil(str(marker))}))
    with pytest.raises(ValueError, match="it imports"):
        read_blobs(path)
    assert not marker.exists()
    # Cut short; a foreign instruction; a codec that is none.
    for content in (b"\x80\x02}q", b"PK\x03\x04", b"c_codecs\nencode\n(Va\nVnone\ntR."):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a pickle of arrays") as error:
            read_blobs(path)
        assert "\n" not in str(error.value)
    del blobs["res3_0_branch2a_w"]
    with pytest.raises(ValueError, match="blob res3_0_branch2a_w must have shape"):
        net.load_blobs(blobs)


class Evil:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_half_precision_stays_half_through_the_frozen_norms():
    torch.manual_seed(0)
    net, image = CaffeResNet50(8), torch.randn(1, 3, 64, 96)
    for norm in (module for module in net.modules() if isinstance(module, FrozenNorm)):
        norm.weight.copy_(torch.rand_like(norm.weight) / 4 + 0.5)
        norm.bias.copy_(torch.randn_like(norm.bias))
    exact = net(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(image)
    for level, features in rough.items():
        assert features.dtype == torch.bfloat16
        torch.testing.assert_close(features.float(), exact[level], rtol=0.05, atol=0.1)
    rough["3"].float().sum().backward()
    assert net.layer2[0].conv1.weight.grad.abs().sum() > 0


def test_stride_sits_in_the_first_convolution():
    block = CaffeResNet50(8).layer2[0]
    assert block.conv1.stride == (2, 2)
    assert block.conv2.stride == (1, 1)
    assert block.downsample[0].stride == (2, 2)
