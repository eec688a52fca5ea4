"""The command printed where a run was interrupted: pasted into a shell, it goes on."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from recipes.cli.arguments import Arguments
from recipes.cli.presets import demo_preset
from recipes.cli.resume_line import resume_command
from recipes.unet3d import BENCHMARK

LAUNCHERS = ("TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS", "GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.argv", ["pytest"])


def line(*words, root="runs", resumed_from=None):
    config = SimpleNamespace(output_root=Path(root))
    cli = SimpleNamespace(arguments=Arguments(words), config=config)
    return resume_command(BENCHMARK, cli, resumed_from)


def test_the_flags_are_repeated_and_quoted():
    words = ["--data.root", "/my data/it's", "--model.net={'a': $x}", "-c", "a b.yaml"]
    given = [*words, "--output_root=/r s", "--ckpt_path", "auto"]
    split = shlex.split(line(*given, root="/r s"))
    head = ["python", "recipes/unet3d.py", "fit"]
    assert split == [*head, *words, "--ckpt_path", "last", "--output_root", "/r s"]


def test_what_the_run_brings_is_not_repeated():
    folder = Path("runs/unet3d/20260101-000000-seed5")
    words = ["--config", str(folder / "config.yaml"), "--config", str(demo_preset(BENCHMARK))]
    expected = "python recipes/unet3d.py fit --config mine.yaml --ckpt_path last"
    assert line(*words, "--config", "mine.yaml", resumed_from=folder) == expected


@pytest.mark.parametrize(
    "words",
    [
        ["--trainer.logger.init_args.api_key", "S3CRET"],
        ["--trainer.logger.init_args.api_key=S3CRET"],
        ["--trainer.logger", '{"class_path": "X", "init_args": {"api_token": "S3CRET"}}'],
        ["--trainer.logger.init_args.tracking_uri", "https://me:S3CRET@host/x"],
        ["--data.shards", "pipe:curl -H 'Authorization: token S3CRET' https://host/{0..9}.tar"],
        ["--data.shards", "https://host/x.tar?X-Amz-Signature=S3CRET"],
        ["--custom.password", "S3CRET"],
    ],
)
def test_secrets_are_left_out(words):
    kept = ["--data.tokenizer", "bpe.model", "--model.max_tokens", "5"]
    assert line(*words, *kept) == (
        f"python recipes/unet3d.py fit {shlex.join(kept)} --ckpt_path last"
    )


def test_the_file_is_named_as_it_was_typed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/my labs/unet3d.py", "fit"])
    assert line() == "python '/my labs/unet3d.py' fit --ckpt_path last"


@pytest.mark.parametrize(
    ("variables", "head"),
    [
        ({"SLURM_STEP_NUM_TASKS": "16"}, "srun python recipes/unet3d.py fit "),
        ({"SLURM_STEP_NUM_TASKS": "1"}, "python recipes/unet3d.py fit "),
        (
            {"TORCHELASTIC_RUN_ID": "x", "GROUP_WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "8"},
            "torchrun --nproc_per_node 8 recipes/unet3d.py fit ",
        ),
        (
            {"TORCHELASTIC_RUN_ID": "x", "GROUP_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "8",
             "MASTER_ADDR": "n0"},
            "torchrun --nnodes 2 --rdzv_backend c10d --rdzv_endpoint n0:29500 --nproc_per_node 8 "
            "recipes/unet3d.py fit ",
        ),
    ],
)  # fmt: skip
def test_the_launcher_comes_first(variables, head, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert line().startswith(head)
