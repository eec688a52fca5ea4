"""Checkpoints of FSDP2, a file or a folder: resumed on the same ranks, on others and on none."""

import os
import signal

import lightning as L
import pytest
import torch
from lightning.pytorch import seed_everything

from callbacks.checkpoint import Checkpoint, LastCheckpoint
from callbacks.quality_target import RunState, StopRun
from modules.common.sharded_file import load_sharded
from modules.common.torch_file import load_verified
from recipes.cli.checkpoint_io import CheckpointIO
from recipes.cli.fsdp2 import FSDP2Strategy
from recipes.cli.strategy import build_strategy
from tests.ranks import on_ranks
from tests.toy import toy_trainer
from tests.toy_decoder import SAMPLES, DecoderModule, TokenData

GLOBAL_BATCH, CUT, END = 12, 3, 5  # steps; an epoch has two
assert SAMPLES // GLOBAL_BATCH == 2


def train(folder, strategy, devices, batch_size, steps, start=None, *, more=()):
    """Train to a step, leave a checkpoint in a folder, and return losses per batch and weights."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    seed_everything(11, verbose=False)
    module = DecoderModule()
    checkpoint = Checkpoint(1e9, folder=lambda: folder, state=RunState(), benchmark="toy")
    trainer = toy_trainer(
        [LastCheckpoint(checkpoint), checkpoint, *more], strategy=build_strategy(strategy, module),
        devices=devices, max_steps=steps, inference_mode=False,
        accumulate_grad_batches=GLOBAL_BATCH // batch_size // devices, gradient_clip_val=0.1,
    )  # fmt: skip
    trainer.strategy.checkpoint_io = CheckpointIO(optimizers=True)
    data = TokenData(batch_size, evaluated=6 * devices)
    trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
    return module.losses


def weights(folder):
    return load_verified(folder / "checkpoints" / "last.ckpt")["state_dict"]


def cut_and_resume(folder, sharded):
    """Train on two ranks: uninterrupted, cut, and resumed."""
    strategy = lambda: FSDP2Strategy(shards_checkpoint=sharded)  # noqa: E731
    whole = train(folder / "whole", strategy(), 2, 3, END)
    train(folder / "cut", strategy(), 2, 3, CUT)
    rest = train(folder / "rest", strategy(), 2, 3, END, folder / "cut" / "checkpoints/last.ckpt")
    return whole, rest


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    return folder, on_ranks(2, folder, cut_and_resume, folder, True)


def assert_resumed_equals_whole(folder, found):
    for whole, rest in found:
        assert whole[-len(rest) :] == rest
        assert len(rest) == 2 * (END - CUT)
    for name, value in weights(folder / "whole").items():
        assert torch.equal(value, weights(folder / "rest")[name]), name


def test_folder_resumes_on_the_same_ranks_to_the_bit(folders):
    folder, found = folders
    assert (folder / "cut/checkpoints/last.ckpt/.metadata").is_file()
    assert_resumed_equals_whole(folder, found)


def test_folder_resumes_on_one_process_at_the_same_sample(folders):
    folder, _ = folders
    start = folder / "cut" / "checkpoints" / "last.ckpt"
    whole = train(folder / "alone", "auto", 1, 12, END)
    losses = train(folder / "on one", "auto", 1, 12, END, start)
    torch.testing.assert_close(losses, whole[CUT:], rtol=1e-5, atol=0)
    for name, value in weights(folder / "alone").items():
        torch.testing.assert_close(weights(folder / "on one")[name], value, rtol=1e-4, atol=1e-5)


def test_folder_reads_as_a_file_does(folders):
    folder, _ = folders
    path = folder / "whole" / "checkpoints" / "last.ckpt"
    content, lazy = load_sharded(path, optimizers=True), load_verified(path, mmap=True)
    net = DecoderModule()
    net.load_state_dict(content["state_dict"])
    net.configure_optimizers()["optimizer"].load_state_dict(content["optimizer_states"][0])
    assert {k: v.shape for k, v in lazy["state_dict"].items()} == {
        k: v.shape for k, v in content["state_dict"].items()
    }
    assert lazy["finishline_benchmark"] == "toy"


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [True, False])
def test_both_kinds_resume_on_more_ranks_on_fewer_and_on_none(sharded, tmp_path):
    found = on_ranks(2, tmp_path, cut_and_resume, tmp_path, sharded)
    assert_resumed_equals_whole(tmp_path, found)
    start = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    assert start.is_dir() == sharded
    whole = train(tmp_path / "alone", "auto", 1, 12, END)[CUT:]
    expected = weights(tmp_path / "alone")
    for ranks, strategy, batch_size in ((3, "fsdp2", 2), (1, "fsdp2", 4), (2, "ddp", 6)):
        meet, again = tmp_path / f"meet{ranks}", tmp_path / f"on {ranks}"
        meet.mkdir()
        arguments = (again, strategy, ranks, batch_size, END, start)
        losses = torch.tensor(on_ranks(ranks, meet, train, *arguments))
        per_step = losses.mean(0).reshape(len(whole), -1).mean(1)
        torch.testing.assert_close(per_step, torch.tensor(whole), rtol=1e-4, atol=0)
        for name, value in weights(again).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


class Interrupted(L.Callback):
    """Sends a signal in the second evaluation, while all weights are gathered."""

    def on_validation_batch_start(self, trainer, module, *_):
        if trainer.global_step == CUT:
            os.kill(os.getpid(), signal.SIGTERM)


def interrupt_and_resume(folder, sharded):
    strategy = lambda: FSDP2Strategy(shards_checkpoint=sharded)  # noqa: E731
    whole = train(folder / "whole", strategy(), 2, 3, END)
    with pytest.raises(StopRun):
        train(folder / "cut", strategy(), 2, 3, END, more=[EveryStep(), Interrupted()])
    rest = train(folder / "rest", strategy(), 2, 3, END, folder / "cut" / "checkpoints/last.ckpt")
    return whole, rest


class EveryStep(L.Callback):
    """Evaluates after each step."""

    def on_train_start(self, trainer, module):
        trainer.val_check_batch = trainer.accumulate_grad_batches


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [True, False])
def test_a_signal_in_an_evaluation_leaves_a_checkpoint_of_gathered_weights(sharded, tmp_path):
    assert_resumed_equals_whole(
        tmp_path, on_ranks(2, tmp_path, interrupt_and_resume, tmp_path, sharded)
    )
