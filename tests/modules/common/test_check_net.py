"""check_net: what it accepts, what it says, and that it leaves no trace."""

import pytest
import torch
from torch import nn

from modules.common.check_net import check_net
from modules.detection.contract import check_detector


class Flatten(nn.Module):
    def forward(self, x):
        return x.flatten(1)


def test_check_net_right_shape_returns_nothing():
    assert check_net(nn.Linear(4, 2), input_shape=(3, 4), output_shape=(3, 2)) is None


def test_check_net_wrong_shape_says_expected_and_got():
    message = r"Linear must map an input of shape \(3, 4\) .* \(3, 5\), but returned shape \(3, 2\)"
    with pytest.raises(ValueError, match=message):
        check_net(nn.Linear(4, 2), input_shape=(3, 4), output_shape=(3, 5))


def test_check_net_several_outputs_says_their_type():
    class Two(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(ValueError, match=r"Two must map .* but returned a tuple of 2"):
        check_net(Two(), input_shape=(1, 2), output_shape=(1, 2))


def test_check_net_failing_net_gives_its_error_in_one_line():
    with pytest.raises(ValueError, match="Linear failed on an input of shape") as caught:
        check_net(nn.Linear(4, 2), input_shape=(3, 7), output_shape=(3, 2))
    assert "RuntimeError: mat1 and mat2 shapes cannot be multiplied" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_check_net_restores_rng_modes_and_buffers():
    net = nn.Sequential(nn.Conv1d(1, 2, 1), nn.BatchNorm1d(2), nn.Dropout(0.5))
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    check_net(net, input_shape=(2, 1, 5), output_shape=(2, 2, 5))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in net] == [True, False, True]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_check_net_restores_rng_and_modes_after_failure():
    net = nn.Linear(4, 2)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="failed"):
        check_net(net, input_shape=(3, 7), output_shape=(3, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training


def test_check_net_integer_input_reaches_an_embedding():
    check_net(nn.Embedding(2, 3), input_shape=(2, 4), output_shape=(2, 4, 3), dtype=torch.int64)


def test_check_net_without_parameters_works():
    check_net(Flatten(), input_shape=(2, 3, 4), output_shape=(2, 12))


class Detector(nn.Module):
    """Follows the detectors' contract, with statistics that training updates."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.frozen = nn.BatchNorm2d(3), nn.Dropout(0.5).eval()

    def forward(self, images, targets=None):
        x = self.norm(images)
        if targets is not None:
            return {"loss": x.mean() + torch.rand(())}
        return [dict.fromkeys(("boxes", "scores", "labels"), x)] * len(images)


def test_check_detector_leaves_no_trace_of_its_training_pass():
    net, images = Detector(), torch.rand(2, 3, 8, 8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    check_detector(net, [images], {"labels": torch.ones(2, 1)})
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training
    assert not net.frozen.training
    assert net.norm.training
    assert torch.equal(torch.get_rng_state(), state)


def test_check_net_gives_a_lazy_net_its_shapes():
    net = nn.Sequential(nn.LazyConv1d(2, 1), nn.LazyBatchNorm1d())
    check_net(net, input_shape=(2, 1, 5), output_shape=(2, 2, 5))
    assert net[0].weight.shape == (2, 1, 1)


class Changed(nn.Module):
    """A layer whose output is changed in some way."""

    def __init__(self, change):
        super().__init__()
        self.layer, self.change = nn.Linear(4, 2), change

    def forward(self, x):
        return self.change(self, self.layer(x))


def in_evaluation(net, x):
    return x if net.training else x * float("nan")


def with_late_layer(net, x):
    net.late = nn.Linear(2, 2)
    return net.late(x)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda net, x: x.long(), "Changed returns int64, which cannot be trained"),
        (lambda net, x: x > 0, "Changed returns bool"),
        (lambda net, x: x.to(torch.complex64), "Changed returns complex64"),
        (in_evaluation, "Changed returns NaN, before any training"),
        (with_late_layer, "Changed makes late.weight only when it is called"),
    ],
)
def test_check_net_names_what_cannot_be_trained_or_kept(change, words):
    with pytest.raises(ValueError, match=words):
        check_net(Changed(change), input_shape=(2, 4), output_shape=(2, 2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_check_net_takes_any_floating_point_type_and_infinities(dtype):
    def change(net, x):
        return torch.where(x > 0, x, -torch.inf).to(dtype)

    check_net(Changed(change), input_shape=(2, 4), output_shape=(2, 2))
