"""ResNetModule: schedule, loss, decay groups, accuracy and statistics over ranks, log facts."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from modules.common.batch_norm_sync import average_running_statistics
from modules.common.schedules import warmup_polynomial
from modules.resnet import ResNetModule
from modules.resnet.module import IMAGE_MEAN, Top1Accuracy


class Pixels(nn.Module):
    """Scores ten classes by the colours' means: a net small enough to follow by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x).mean((2, 3)))


def module(
    *, train: int = 1_281_167, batch: int = 4096, ranks: int = 1, accumulate: int = 1, **options
) -> ResNetModule:
    """A module under a stand-in trainer, by default with floor-divisible epochs."""
    made = ResNetModule(**{"net": Pixels, **options})
    made.trainer = SimpleNamespace(  # type: ignore[assignment]
        world_size=ranks,
        accumulate_grad_batches=accumulate,
        log_every_n_steps=0,
        datamodule=SimpleNamespace(samples_per_epoch=train, batch_size=batch),
        num_val_batches=[1],
    )
    return made


# Learning rate.


def rate(step: int, base: float, warm: float, total: float) -> float:
    return warmup_polynomial(
        step, learning_rate=base, end_learning_rate=1e-4, warmup_steps=warm, total_steps=total
    )


def test_rate_of_the_reference_at_batch_4096() -> None:
    # 312 steps per epoch, 42 epochs, 5 of warm-up: the figures of the specification.
    assert rate(0, 10.0, 1560, 13104) == 0.0
    assert rate(780, 10.0, 1560, 13104) == 5.0
    assert rate(1560, 10.0, 1560, 13104) == 10.0
    assert rate(13103, 10.0, 1560, 13104) == pytest.approx(1.003e-4, rel=1e-3)
    assert rate(13105, 10.0, 1560, 13104) == 1e-4
    assert rate(99_999, 10.0, 1560, 13104) == 1e-4
    middle = 1560 + 11545 / 2
    assert rate(round(middle), 10.0, 1560, 13104) == pytest.approx(2.5, rel=1e-3)


def test_rate_without_a_warm_up_starts_at_the_base() -> None:
    assert rate(0, 3.0, 0, 100) == 3.0


def test_rate_follows_optimizer_steps_of_all_ranks() -> None:
    made = module(train=393 * 3264, batch=51, ranks=8, accumulate=8)
    assert made.steps_per_epoch == 393
    scheduler = made.configure_optimizers()["lr_scheduler"]["scheduler"]
    optimizer = scheduler.optimizer
    seen = []
    for _ in range(4):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx([10.5 * t / 786 for t in range(4)])


def test_module_without_a_counting_datamodule_says_so() -> None:
    made = module()
    made.trainer.datamodule = None  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="samples_per_epoch"):
        made.configure_optimizers()


# Loss and optimizer.


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_the_smoothed_cross_entropy_by_hand(smoothing: float) -> None:
    torch.manual_seed(0)
    made = module(label_smoothing=smoothing)
    image = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    label = torch.randint(0, 10, (6,))
    loss = made.training_step({"image": image, "label": label, "index": label}, 0)
    with torch.no_grad():
        logits = made.net(image.double().float() - torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1))
    share = torch.full((6, 10), smoothing / 10, dtype=torch.float64)
    share[torch.arange(6), label] += 1 - smoothing
    wanted = -(share * logits.double().log_softmax(1)).sum() / 6
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_means_are_taken_off_per_channel_and_layout_is_kept() -> None:
    image = torch.zeros(2, 4, 4, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    found = module().normalise(image)
    assert found[0, :, 0, 0].tolist() == pytest.approx([-123.68, -116.78, -103.94])
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_lars_adapts_and_decays_kernels_only() -> None:
    groups = module().configure_optimizers()["optimizer"].param_groups
    assert [len(group["params"]) for group in groups] == [1, 3]
    assert [group["weight_decay"] for group in groups] == [5e-5, 0.0]
    assert [group["adapt"] for group in groups] == [True, False]


def test_sgd_decays_kernels_and_biases_by_twice_the_figure() -> None:
    made = module(optimizer="sgd", weight_decay=1e-4)
    groups = made.configure_optimizers()["optimizer"].param_groups
    assert [len(group["params"]) for group in groups] == [2, 2]
    assert [group["weight_decay"] for group in groups] == [2e-4, 0.0]
    assert not any(group["adapt"] for group in groups)


def test_sgd_step_is_the_gradient_of_the_references_loss_with_its_l2_term() -> None:
    torch.manual_seed(0)
    made = module(optimizer="sgd", weight_decay=0.01, warmup_epochs=0, learning_rate=0.5)
    head = made.net.head
    optimizer = made.configure_optimizers()["optimizer"]
    x, label = torch.randn(8, 3, 2, 2), torch.arange(8)
    before = {name: p.detach().clone() for name, p in made.net.named_parameters()}
    loss = nn.functional.cross_entropy(made.net(x), label)
    penalty = 0.01 * (head.weight.square().sum() + head.bias.square().sum())
    grads = torch.autograd.grad(loss + penalty, list(made.net.parameters()), retain_graph=True)
    loss.backward()
    optimizer.step()
    for (name, param), grad in zip(made.net.named_parameters(), grads, strict=True):
        torch.testing.assert_close(param.detach(), before[name] - 0.5 * grad)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"momentum": 1.0}, "momentum must be in"),
        ({"warmup_epochs": 37}, "warmup_epochs must be in"),
        ({"learning_rate": 0.0, "weight_decay": -1.0}, "learning_rate .*\nweight_decay"),
    ],
)
def test_settings_out_of_range_are_rejected(setting: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        module(**setting)


# Accuracy and statistics over ranks.


def test_accuracy_counts_hits_without_rounding() -> None:
    metric = Top1Accuracy()
    logits = torch.eye(10)[torch.arange(1000) % 10]
    label = torch.arange(1000) % 10
    label[:241] = (label[:241] + 1) % 10
    for part in range(0, 1000, 300):
        metric.update(logits[part : part + 300], label[part : part + 300])
    found = metric.compute()
    assert found.dtype == torch.float64
    assert found.item() == 759 / 1000


def _on_a_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, affine=False))
    net[0].running_mean.fill_(rank)
    net[2].running_var.copy_(torch.tensor([1.0, 2.0]) * (1 + 2 * rank))
    net[0].num_batches_tracked.fill_(7)
    average_running_statistics(net)
    metric = Top1Accuracy()
    metric.update(torch.eye(10)[: 3 + rank], torch.arange(3 + rank) * (1 - rank))
    torch.save(
        {"state": net.state_dict(), "accuracy": metric.compute()}, Path(folder, f"{rank}.pt")
    )
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_average_statistics_and_add_up_counts(tmp_path: Path) -> None:
    mp.spawn(_on_a_rank, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["state"]["0.running_mean"].tolist() == [0.5] * 3
        assert found["state"]["2.running_var"].tolist() == [2.0, 4.0]
        assert found["state"]["0.num_batches_tracked"] == 7
        # Rank 0 has 3 of 3 right, rank 1 has 1 of 4: counts are added, not shares averaged.
        assert found["accuracy"].item() == 4 / 7


def test_warm_up_traces_a_compiled_net_for_every_evaluation_batch() -> None:
    made, graphs = module(), []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    def images(count: int) -> dict[str, Tensor]:
        image = torch.zeros(count, 8, 8, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        return {"image": image, "label": torch.zeros(count, dtype=torch.int64)}

    made.trainer.datamodule.synthetic_batch = lambda: images(9)  # type: ignore[attr-defined]
    made.net.compile(backend=backend)
    made.training_step(images(9), 0).backward()  # type: ignore[arg-type]
    made.eval()
    with torch.no_grad():
        made.warm_up_evaluation()
        traced = len(graphs)
        for count in (12, 5):
            made.validation_step(images(count), 0)  # type: ignore[arg-type]
    assert len(graphs) == traced == 2


def test_without_other_ranks_statistics_stay() -> None:
    net = nn.BatchNorm2d(2)
    average_running_statistics(net)
    assert torch.equal(net.running_var, torch.ones(2))


# Log.


@pytest.mark.parametrize("optimizer", ["lars", "sgd"])
def test_facts_have_the_figures_of_the_convergence_point(optimizer: str) -> None:
    made = module(train=393 * 3264, batch=408, accumulate=8, optimizer=optimizer)
    facts = made.mllog_facts()
    assert facts["opt_name"] == optimizer
    assert facts[f"{optimizer}_opt_base_learning_rate"] == 10.5
    assert facts[f"{optimizer}_opt_learning_rate_decay_steps"] == (37 - 2) * 393 + 1
    assert facts["model_bn_span"] == 408
    assert ("lars_epsilon" in facts) == (optimizer == "lars")


def test_net_of_the_wrong_shape_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"\(1, 1000\)"):
        module().check_net()


def test_total_epochs_are_rounded_up_to_an_evaluation() -> None:
    from recipes.resnet import BENCHMARK

    first, every, limit = (BENCHMARK.evaluation[key] for key in ("first", "every", "limit"))
    train_epochs = ResNetModule(net=Pixels).train_epochs
    assert limit == first + math.ceil((train_epochs - first) / every) * every
    assert every == 4
    assert first in (1, 2, 3, 4)
