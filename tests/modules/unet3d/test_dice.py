"""Dice: against loops over voxels, against MONAI where both agree, and at the edges."""

import math

import pytest
import torch
from monai.losses import DiceCELoss
from monai.metrics import compute_dice

from modules.unet3d.dice import dice_ce_loss, dice_from_counts, overlap_counts, soft_dice_per_class


def case(seed, batch=2, classes=3, shape=(3, 4, 5)):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, classes, *shape, generator=generator)
    label = torch.randint(0, classes, (batch, 1, *shape), generator=generator, dtype=torch.uint8)
    return logits, label


def loss_voxel_by_voxel(logits, label):
    """The formula of the specification, in plain floats."""
    batch, classes = logits.shape[:2]
    nll, one_minus_dice = [], []
    for n in range(batch):
        truth = label[n, 0].flatten().tolist()
        rows = logits[n].flatten(1).T.tolist()
        prob = []
        for row in rows:
            total = sum(math.exp(v) for v in row)
            prob.append([math.exp(v) / total for v in row])
        nll += [-math.log(p[y]) for p, y in zip(prob, truth, strict=True)]
        for c in range(1, classes):
            both = sum(p[c] for p, y in zip(prob, truth, strict=True) if y == c)
            total = sum(y == c for y in truth) + sum(p[c] for p in prob)
            one_minus_dice.append(1 - (2 * both + 1e-6) / (total + 1e-6))
    return (sum(one_minus_dice) / len(one_minus_dice) + sum(nll) / len(nll)) / 2


@pytest.mark.parametrize("seed", range(4))
def test_loss_equals_voxel_by_voxel_formula(seed):
    logits, label = case(seed, batch=1 + seed % 3, classes=3 + seed % 2)
    assert dice_ce_loss(logits, label).item() == pytest.approx(
        loss_voxel_by_voxel(logits, label), rel=1e-5
    )


@pytest.mark.parametrize("seed", range(7, 12))
def test_loss_and_gradient_equal_monai_in_its_matching_configuration(seed):
    logits, label = case(seed, batch=1 + seed % 2, shape=(9, 10, 11))
    logits.requires_grad_()
    monai_loss = DiceCELoss(
        include_background=False,
        to_onehot_y=True,
        softmax=True,
        smooth_nr=1e-6,
        smooth_dr=1e-6,
        lambda_dice=0.5,
        lambda_ce=0.5,
    )
    ours, theirs = dice_ce_loss(logits, label), monai_loss(logits, label)
    torch.testing.assert_close(ours, theirs, rtol=2e-7, atol=0)  # equal, or one bit apart
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-10)


def test_loss_gradient_equals_finite_differences():
    logits, label = case(3, batch=1, shape=(2, 2, 2))
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(dice_ce_loss(logits, label), logits)
    for place in ((0, 0, 0, 0, 0), (0, 1, 1, 0, 1), (0, 2, 0, 1, 1)):
        ends = []
        for step in (-1e-3, 1e-3):
            moved = logits.detach().clone()
            moved[place] += step
            ends.append(loss_voxel_by_voxel(moved, label))
        slope = (ends[1] - ends[0]) / 2e-3
        assert gradient[place].item() == pytest.approx(slope, rel=1e-2, abs=1e-6)


def test_loss_bfloat16_logits_are_summed_in_float32():
    logits, label = case(5, shape=(16, 16, 16))
    low = logits.bfloat16()
    loss = dice_ce_loss(low, label)
    assert loss.dtype == torch.float32
    assert loss.item() == dice_ce_loss(low.float(), label).item()


def test_loss_under_autocast_is_the_same():
    logits, label = case(6, shape=(8, 8, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = dice_ce_loss(logits, label)
    assert inside.item() == dice_ce_loss(logits, label).item()


def test_loss_perfect_prediction_is_nearly_zero():
    _, label = case(1)
    logits = 50.0 * torch.nn.functional.one_hot(label[:, 0].long(), 3).movedim(-1, 1).float()
    assert dice_ce_loss(logits, label).item() == pytest.approx(0, abs=1e-6)


def test_soft_dice_class_absent_from_both_is_one():
    dice = soft_dice_per_class(torch.zeros(1, 2, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2).byte())
    assert dice.tolist() == [[1.0, 1.0]]


def test_score_class_absent_from_both_is_one_and_from_one_about_zero():
    counts = torch.tensor([[[0, 0, 0], [0, 10, 0], [0, 0, 10]]])
    both, in_prediction, in_label = dice_from_counts(counts)[0].tolist()
    assert both == 1.0
    assert 0 < in_prediction < 1e-6
    assert 0 < in_label < 1e-6


def test_score_known_overlap_is_exact():
    # 6 voxels in both, 8 predicted, 10 labelled: 12 / 18.
    got = dice_from_counts(torch.tensor([[[6, 8, 10]]])).item()
    assert got == (12 + 1e-6) / (18 + 1e-6)


def test_score_equals_monai_where_no_class_is_absent():
    logits, label = case(11, shape=(6, 7, 8))
    got = dice_from_counts(overlap_counts(logits, label))
    one_hot = torch.nn.functional.one_hot
    expected = compute_dice(
        one_hot(logits.argmax(1), 3).movedim(-1, 1),
        one_hot(label[:, 0].long(), 3).movedim(-1, 1),
        include_background=False,
    )
    torch.testing.assert_close(got.float(), expected, rtol=1e-6, atol=1e-6)


def test_counts_of_tied_and_nan_logits_are_those_of_argmax():
    logits, label = case(13)
    logits[:, 1, 0], logits[:, 2, 1] = logits[:, 0, 0], float("nan")
    predicted = logits.argmax(1)
    counts = overlap_counts(logits, label)[..., 1]
    assert counts.tolist() == [[int((p == c).sum()) for c in (1, 2)] for p in predicted]


def test_counts_equal_loop_over_voxels():
    logits, label = case(12)
    counts = overlap_counts(logits, label)
    assert counts.dtype == torch.int64
    for n in range(2):
        pairs = list(
            zip(logits[n].argmax(0).flatten().tolist(), label[n].flatten().tolist(), strict=True)
        )
        for c in (1, 2):
            both = sum(p == c and y == c for p, y in pairs)
            expected = [both, sum(p == c for p, _ in pairs), sum(y == c for _, y in pairs)]
            assert counts[n, c - 1].tolist() == expected


@pytest.mark.parametrize("function", [dice_ce_loss, overlap_counts])
def test_other_voxels_name_both_shapes(function):
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4, 4\).*\(1, 1, 4, 4, 2\)"):
        function(torch.zeros(1, 3, 4, 4, 4), torch.zeros(1, 1, 4, 4, 2).byte())
