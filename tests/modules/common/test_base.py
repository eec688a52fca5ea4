"""Steps per epoch and the peak rate, against the schedule that each module's optimizer follows."""

from types import SimpleNamespace

import pytest
from torch import nn

from modules.bert import BertModule
from modules.detection.maskrcnn import MaskRCNNModule
from modules.detection.ssd import SSDModule
from modules.dlrm import DLRMModule
from modules.minigo import MiniGoModule
from modules.resnet import ResNetModule
from modules.rnnt import RNNTModule
from modules.unet3d import UNet3DModule

# Steps, or epochs for U-Net3D, that reach beyond every warm-up and plateau's start below.
SAMPLED = 20_000
SAMPLES, BATCH = 64_000, 640


class Net(nn.Module):
    """One weight and one bias, and DLRM's shape of an output."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(13, 1)

    def forward(self, dense, *rest):
        return self.linear(dense).squeeze(1)


def attach(module, *, samples=SAMPLES, batch=BATCH, ranks=1, accumulate=1):
    """Give a module a trainer with a data module of that many samples."""
    global_batch = batch * ranks * accumulate
    data = SimpleNamespace(
        samples_per_epoch=samples,
        num_train_samples=samples,
        batch_size=batch,
        global_batch_size=global_batch,
    )
    module._trainer = SimpleNamespace(
        world_size=ranks, accumulate_grad_batches=accumulate, datamodule=data
    )
    return module


@pytest.mark.parametrize("kind", [ResNetModule, RNNTModule, SSDModule])
@pytest.mark.parametrize(
    ("samples", "steps"), [(6400, 10), (7039, 10), (7040, 11), (640, 1), (100, 1)]
)
def test_steps_per_epoch_are_whole_global_batches(kind, samples, steps):
    assert attach(kind(net=Net), samples=samples).steps_per_epoch == steps
    shared = attach(kind(net=Net), samples=samples, batch=16, ranks=8, accumulate=5)
    assert shared.steps_per_epoch == steps


@pytest.mark.parametrize("kind", [ResNetModule, RNNTModule, SSDModule])
def test_a_data_module_that_does_not_count_is_named_in_one_line(kind):
    module = attach(kind(net=Net))
    module._trainer.datamodule = SimpleNamespace(batch_size=1)
    with pytest.raises(ValueError, match=f"^{kind.__name__} needs a data module with samples_per"):
        _ = module.steps_per_epoch


def minigo(start_step, **options):
    module = MiniGoModule(net=Net, **options)
    module.start_step = start_step
    return module


@pytest.mark.parametrize(
    "make",
    [
        lambda: UNet3DModule(net=Net),
        lambda: UNet3DModule(net=Net, warmup_epochs=0),
        lambda: UNet3DModule(net=Net, decay_boundary_epochs=(300, 400), decay_factor=0.5),
        lambda: RNNTModule(net=Net),
        lambda: RNNTModule(net=Net, warmup_epochs=3, hold_epochs=0),
        lambda: ResNetModule(net=Net),
        lambda: ResNetModule(net=Net, optimizer="sgd", warmup_epochs=0),
        lambda: ResNetModule(net=Net, warmup_epochs=1.234),  # ends between two steps
        lambda: ResNetModule(net=Net, warmup_epochs=0.011, train_epochs=3),
        lambda: SSDModule(net=Net),
        lambda: SSDModule(net=Net, warmup_epochs=0),
        lambda: SSDModule(net=Net, warmup_epochs=1.55, warmup_factor=1),
        lambda: SSDModule(net=Net, warmup_epochs=5, decay_boundary_epochs=(3, 4)),
        lambda: MaskRCNNModule(net=Net),
        lambda: MaskRCNNModule(net=Net, learning_rate=0.16, warmup_steps=0),
        lambda: BertModule(net=Net),
        lambda: BertModule(net=Net, warmup_steps=1000),
        lambda: BertModule(net=Net, warmup_steps=1000, start_warmup_step=-400),
        lambda: BertModule(net=Net, warmup_steps=300, start_warmup_step=-400),
        lambda: BertModule(net=Net, warmup_steps=300, start_warmup_step=-300),
        lambda: BertModule(net=Net, warmup_steps=3, training_steps=4),
        lambda: DLRMModule(net=Net),
        lambda: DLRMModule(net=Net, warmup_steps=0),
        lambda: DLRMModule(net=Net, warmup_steps=1),
        lambda: DLRMModule(net=Net, warmup_steps=2, decay_steps=0),
        lambda: DLRMModule(net=Net, warmup_steps=0, decay_start_step=0),
        lambda: minigo(0),
        lambda: minigo(11, lr_boundaries=(10, 20), lr_rates=(0.3, 0.1, 0.2)),
        lambda: minigo(10, lr_boundaries=(10, 20), lr_rates=(0.3, 0.1, 0.2)),
    ],
)
def test_peak_learning_rate_is_the_maximum_of_the_schedule(make):
    module = attach(make())
    module.configure_model()
    configured = module.configure_optimizers()
    scheduler = configured["lr_scheduler"]["scheduler"]
    assert scheduler.optimizer.param_groups[0]["initial_lr"] == 1.0
    schedule = scheduler.lr_lambdas[0]  # of the weights; biases may learn faster
    assert module.peak_learning_rate == max(map(schedule, range(SAMPLED)))
    assert isinstance(module.peak_learning_rate, float)


def test_the_hook_in_progress_is_noted_without_torchs_search(monkeypatch):
    module, searched = UNet3DModule(net=Net), []
    assert "_current_fx_name" in vars(module), "Lightning has another name for it"
    monkeypatch.setattr(nn.Module, "__setattr__", lambda self, name, _: searched.append(name))
    module._current_fx_name = "training_step"
    module.other = 1
    assert module._current_fx_name == "training_step"
    assert searched == ["other"]
