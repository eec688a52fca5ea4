"""UNet3DModule: its optimizer, its metric over ranks, its log facts, and foreign networks."""

import functools
import logging
import multiprocessing
import sys

import lightning as L
import pytest
import torch
import torch.distributed as dist
from torch import nn

from modules.unet3d import UNet3DModule
from modules.unet3d.dice import CaseDice, dice_ce_loss
from modules.unet3d.net import UNet3D

WINDOW = (16, 16, 16)
small_net = functools.partial(UNet3D, filters=(2, 4))


def make_module(**arguments):
    settings = {"net": small_net, "validation_input_shape": WINDOW, "validation_batch_size": 4}
    return UNet3DModule(**(settings | arguments))


def make_batches(count, shape, batch_size=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (batch_size, 1, *shape)
    return [
        {
            "image": torch.randn(size, generator=generator),
            "label": torch.randint(0, 3, size, generator=generator, dtype=torch.uint8),
            "index": torch.arange(i * batch_size, (i + 1) * batch_size),
        }
        for i in range(count)
    ]


def loader(batches):
    return torch.utils.data.DataLoader(batches, batch_size=None)


def make_trainer(**arguments):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(accelerator="cpu", devices=1, num_sanity_val_steps=0, **(quiet | arguments))


SCHEDULE = {
    "learning_rate": 0.3,
    "initial_learning_rate": 0.01,
    "warmup_epochs": 3,
    "decay_boundary_epochs": (4,),
    "decay_factor": 0.5,
}
# Epochs 1 to 6, worked out by hand from the specification.
RATES = [0.01 + 0.29 / 3, 0.01 + 0.29 * 2 / 3, 0.3, 0.3, 0.15, 0.15]


class RecordRates(L.Callback):
    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_fit_equals_a_plain_sgd_loop_to_the_bit():
    batches = make_batches(2, WINDOW, batch_size=2)
    torch.manual_seed(0)
    module = make_module(**SCHEDULE, weight_decay=1e-3)
    torch.manual_seed(0)
    net = small_net()
    recorder = RecordRates()
    make_trainer(max_epochs=6, callbacks=[recorder]).fit(module, loader(batches))

    assert recorder.rates == pytest.approx([rate for rate in RATES for _ in batches], rel=1e-12)
    optimizer = torch.optim.SGD(net.parameters(), 1.0, 0.9, weight_decay=1e-3, nesterov=True)
    for epoch in range(6):
        optimizer.param_groups[0]["lr"] = recorder.rates[2 * epoch]
        for batch in batches:
            optimizer.zero_grad()
            dice_ce_loss(net(batch["image"]), batch["label"]).backward()
            optimizer.step()
    for mine, theirs in zip(module.net.parameters(), net.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_optimizer_is_nesterov_sgd_of_the_closed_reference():
    module = UNet3DModule(net=small_net)
    group = module.configure_optimizers()["optimizer"].param_groups[0]
    assert group["nesterov"]
    assert (group["momentum"], group["dampening"], group["weight_decay"]) == (0.9, 0, 0.0)
    assert group["lr"] == pytest.approx(1e-4 + 0.7999 / 200, rel=1e-12)


def test_training_losses_golden_values_of_seed_0():
    """Golden values: torch 2.11 CPU float32, seed 0, made by this module; see the tolerance."""
    losses = []

    class Keep(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(outputs["loss"].item())

    torch.manual_seed(0)
    module = make_module(learning_rate=0.4, warmup_epochs=0)
    batches = make_batches(1, WINDOW, batch_size=2)
    make_trainer(max_epochs=4, callbacks=[Keep()]).fit(module, loader(batches))
    assert losses == pytest.approx([0.96959, 0.93386, 0.90504, 0.88744], abs=1e-3)


def test_train_loss_is_logged_every_n_steps_only():
    module = make_module()
    names = []
    module.log = lambda name, value: names.append((module.global_step, name))
    trainer = make_trainer(max_epochs=1, log_every_n_steps=2)
    trainer.fit(module, loader(make_batches(5, WINDOW)))
    assert names == [(1, "train/loss"), (3, "train/loss")]


class Threshold(nn.Module):
    """Predicts the class by the intensity, so that the right answer is easy to write down."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x_BCDHW):
        classes = torch.arange(3.0, device=x_BCDHW.device).view(1, 3, 1, 1, 1)
        return -10 * (x_BCDHW - classes).abs() + 0 * self.unused


def test_validate_gives_the_mean_over_cases_of_each_class():
    """Cropped voxels do not count; each volume weighs the same whatever its size."""
    shapes = [(16, 24, 32), (19, 16, 16), (29, 40, 16)]
    batches, dices, losses = [], [], []
    for i, shape in enumerate(shapes):
        (batch,) = make_batches(1, shape, seed=i)
        generator = torch.Generator().manual_seed(100 + i)
        guess = torch.where(
            torch.rand(1, 1, *shape, generator=generator) < 0.7,
            batch["label"].float(),
            torch.randint(0, 3, (1, 1, *shape), generator=generator).float(),
        )
        batches.append({**batch, "image": guess, "index": torch.tensor([i])})
        # 19 % 8 = 3 < 4: one voxel goes below and two above. 29 % 8 = 5 is padded.
        low, high = (1, 17) if shape[0] == 19 else (0, shape[0])
        scored, label = guess[:, :, low:high], batch["label"][:, :, low:high]
        overlap = [((scored == c) & (label == c)).sum().item() for c in (1, 2)]
        total = [((scored == c).sum() + (label == c).sum()).item() for c in (1, 2)]
        dices.append([2 * o / t for o, t in zip(overlap, total, strict=True)])
        losses.append(dice_ce_loss(Threshold()(scored), label).item())
    module = make_module(net=Threshold)
    (logged,) = make_trainer().validate(module, loader(batches), verbose=False)
    kidney, tumour = (sum(column) / 3 for column in zip(*dices, strict=True))
    assert logged["val/dice_kidney"] == pytest.approx(kidney, rel=1e-6)
    assert logged["val/dice_tumour"] == pytest.approx(tumour, rel=1e-6)
    assert logged["val/mean_dice"] == pytest.approx((kidney + tumour) / 2, rel=1e-6)
    assert logged["val/loss"] == pytest.approx(sum(losses) / 3, rel=1e-4)


def test_validate_logs_every_metric_name_in_float64():
    trainer = make_trainer()
    module = make_module()
    trainer.validate(module, loader(make_batches(2, WINDOW)), verbose=False)
    logged = trainer.callback_metrics
    assert set(logged) == {f"val/{name}" for name in module.metric_names}
    assert {value.dtype for value in logged.values()} == {torch.float64}
    assert {value.ndim for value in logged.values()} == {0}


def test_validate_twice_forgets_the_first_evaluation():
    module, trainer = make_module(), make_trainer()
    (first,) = trainer.validate(module, loader(make_batches(2, WINDOW)), verbose=False)
    trainer.validate(module, loader(make_batches(3, WINDOW, seed=5)), verbose=False)
    (again,) = trainer.validate(module, loader(make_batches(2, WINDOW)), verbose=False)
    assert again == first


def test_validate_does_not_depend_on_the_window_batch():
    batches = make_batches(1, (24, 24, 24))
    dices = []
    for batch_size in (1, 3, 8):
        torch.manual_seed(0)
        module = make_module(validation_batch_size=batch_size)
        dices.append(make_trainer().validate(module, loader(batches), verbose=False)[0])
    assert dices[0] == pytest.approx(dices[1], rel=1e-5)
    assert dices[0] == pytest.approx(dices[2], rel=1e-5)


def test_setup_imports_monai_before_the_clock(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.inferers", None)
    with pytest.raises(ImportError):
        make_module().setup("fit")


def test_warm_up_traces_a_compiled_net_for_every_number_of_windows():
    module, graphs = make_module(validation_batch_size=8), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    def windows(count):
        return torch.zeros(count, 1, *module.validation_input_shape)

    module.net.compile(backend=backend)
    module.net(windows(7)).sum().backward()
    module.eval()
    with torch.no_grad():
        module.warm_up_evaluation()
        traced = len(graphs)
        for count in (8, 5, 2, 1):
            module.net(windows(count))
    assert len(graphs) == traced == 3


def test_bf16_mixed_keeps_loss_and_logits_in_float32():
    module = make_module()
    kinds = []
    step = module.training_step

    def spy(batch, batch_idx):
        loss = step(batch, batch_idx)
        kinds.append(loss.dtype)
        return loss

    module.training_step = spy
    trainer = make_trainer(max_epochs=1, precision="bf16-mixed")
    trainer.fit(module, loader(make_batches(2, WINDOW)), loader(make_batches(1, (24, 16, 16))))
    assert kinds == [torch.float32] * 2
    assert torch.isfinite(trainer.callback_metrics["val/loss"])


def test_mean_dice_of_zero_warns_and_does_not_stop(caplog):
    class Background(Threshold):
        def forward(self, x_BCDHW):
            return super().forward(torch.zeros_like(x_BCDHW))

    trainer = make_trainer()
    with caplog.at_level(logging.WARNING, logger="modules.unet3d"):
        batches = loader(make_batches(1, WINDOW))
        trainer.validate(make_module(net=Background), batches, verbose=False)
    assert "finds no kidney and no tumour" in caplog.text
    assert not trainer.should_stop
    assert 0 < trainer.callback_metrics["val/mean_dice"] < 1e-6


def make_cases(count):
    generator = torch.Generator().manual_seed(3)
    both = torch.randint(1, 10_000, (count, 2, 1), generator=generator)
    extra = torch.randint(0, 10_000, (count, 2, 2), generator=generator)
    counts = torch.cat((both, both + extra), dim=-1)
    return torch.arange(count), counts, torch.rand(count, generator=generator)


def metric_of(index, counts, loss, order):
    metric = CaseDice()
    metric.add_nothing()
    for i in order:
        metric.update(index[i : i + 1], counts[i : i + 1], loss[i : i + 1])
    return metric


def gather_in_worlds(rank, store, queue):
    """One of five processes: the same 13 cases (and then only 3) over 1, 2, 3 and 5 of them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=5)
    results = {}
    for num_cases in (13, 3):
        for world in (1, 2, 3, 5):
            group = dist.new_group(list(range(world)))
            if rank < world:
                # Backwards, so that the order of arrival differs from the order of the index.
                order = range(rank, num_cases, world)[::-1]
                metric = metric_of(*make_cases(num_cases), order)
                metric.process_group = group
                means = metric.compute()
                results[num_cases, world] = {k: v.item().hex() for k, v in means.items()}
    queue.put((rank, results))
    dist.barrier()
    dist.destroy_process_group()


def test_metric_over_1_2_3_5_ranks_agrees_to_the_bit(tmp_path, monkeypatch):
    """Also with more ranks than cases, where a rank has nothing to bring."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    arguments = (str(tmp_path / "store"), queue)
    workers = [context.Process(target=gather_in_worlds, args=(r, *arguments)) for r in range(5)]
    for worker in workers:
        worker.start()
    by_rank = dict(queue.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join(timeout=30)
    for num_cases in (13, 3):
        alone = metric_of(*make_cases(num_cases), range(num_cases)).compute()
        expected = {name: mean.item().hex() for name, mean in alone.items()}
        for world in (1, 2, 3, 5):
            for rank in range(world):
                assert by_rank[rank][num_cases, world] == expected


def test_metric_counts_a_repeated_case_once():
    cases = make_cases(5)
    once = metric_of(*cases, range(5)).compute()
    twice = metric_of(*cases, [3, 0, 1, 1, 4, 2, 3, 0]).compute()
    assert {k: v.item() for k, v in once.items()} == {k: v.item() for k, v in twice.items()}


def test_metric_is_the_plain_mean():
    index, counts, loss = make_cases(7)
    means = metric_of(index, counts, loss, range(7)).compute()
    rows = counts.tolist()
    kidney = sum((2 * k[0] + 1e-6) / (k[1] + k[2] + 1e-6) for k, _ in rows) / 7
    tumour = sum((2 * t[0] + 1e-6) / (t[1] + t[2] + 1e-6) for _, t in rows) / 7
    assert means["dice_kidney"].item() == pytest.approx(kidney, rel=1e-14)
    assert means["dice_tumour"].item() == pytest.approx(tumour, rel=1e-14)
    assert means["mean_dice"].item() == pytest.approx((kidney + tumour) / 2, rel=1e-14)
    assert means["loss"].item() == pytest.approx(sum(loss.tolist()) / 7, rel=1e-14)


def swin_unetr():
    nets = pytest.importorskip("monai.networks.nets")
    pytest.importorskip("einops")
    return nets.SwinUNETR(in_channels=1, out_channels=3, feature_size=12, depths=(1, 1, 1, 1))


def dyn_unet():
    nets = pytest.importorskip("monai.networks.nets")
    return nets.DynUNet(3, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 16])


def seg_res_net():
    nets = pytest.importorskip("monai.networks.nets")
    return nets.SegResNet(in_channels=1, out_channels=3)


# SwinUNETR halves five times and normalises there: a side of 32 would leave it a single voxel.
@pytest.mark.parametrize(("net", "side"), [(swin_unetr, 64), (dyn_unet, 32), (seg_res_net, 32)])
def test_foreign_net_trains_and_is_evaluated(net, side):
    window = (side, side, side)
    module = make_module(net=net, validation_input_shape=window, learning_rate=0.01)
    module.check_net()
    before = [parameter.detach().clone() for parameter in module.net.parameters()]
    trainer = make_trainer(max_epochs=1)
    trainer.fit(
        module, loader(make_batches(1, window)), loader(make_batches(1, (side, side, side + 8)))
    )
    assert torch.isfinite(trainer.callback_metrics["val/loss"])
    assert 0 <= trainer.callback_metrics["val/mean_dice"] <= 1
    after = module.net.parameters()
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not module.mllog_tensors()


def test_check_net_wrong_class_count_names_both_shapes():
    module = make_module(net=functools.partial(UNet3D, num_classes=5, filters=(2, 4)))
    with pytest.raises(
        ValueError, match=r"\(1, 3, 16, 16, 16\), but returned .*\(1, 5, 16, 16, 16\)"
    ):
        module.check_net()


def test_mllog_facts_defaults_are_the_closed_reference():
    assert UNet3DModule(net=small_net).mllog_facts() == {
        "opt_name": "sgd",
        "opt_base_learning_rate": 0.8,
        "opt_momentum": 0.9,
        "opt_weight_decay": 0.0,
        "opt_learning_rate_warmup_epochs": 200,
        "opt_initial_learning_rate": 1e-4,
        "opt_learning_rate_decay_boundary_epochs": [],
        "opt_learning_rate_decay_factor": 1.0,
        "validation_input_shape": [128, 128, 128],
        "validation_overlap": 0.5,
    }


def test_mllog_tensors_reference_net_names_its_layers():
    assert list(make_module().mllog_tensors())[-1] == "output_conv"


def test_arguments_parse_from_flags_and_reject_a_typo():
    parser = pytest.importorskip("jsonargparse").ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(UNet3DModule, "model")
    net = ["--model.net=modules.unet3d.net.UNet3D", "--model.net.filters=[2,4]"]
    parsed = parser.parse_args([*net, "--model.validation_input_shape=[16,16,16]"])
    module = parser.instantiate(parsed).model
    assert sum(p.numel() for p in module.net.parameters()) == sum(
        p.numel() for p in small_net().parameters()
    )
    assert module.validation_input_shape == (16, 16, 16)
    with pytest.raises(Exception, match="filter"):
        parser.parse_args(["--model.net=modules.unet3d.net.UNet3D", "--model.net.filter=[2,4]"])
