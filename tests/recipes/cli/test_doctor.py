"""What the doctor says of machines and folders, without real data."""

import csv
import importlib
import re
import shutil
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datamodules.common.memory import MemoryNeed
from recipes.cli import doctor as doctor_command
from recipes.cli import doctor_memory
from recipes.cli.demo_times import demo_time
from recipes.cli.doctor_memory import shortages
from recipes.cli.main import run
from tests import demo_times

ROOT = Path(__file__).parents[3]
STEMS = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))
UNET3D = importlib.import_module("recipes.unet3d").BENCHMARK
DLRM = importlib.import_module("recipes.dlrm").BENCHMARK


def doctor(stem, capsys, *args):
    status = run(importlib.import_module(f"recipes.{stem}").BENCHMARK, ["doctor", *args])
    return status, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("stem", STEMS)
def test_a_laptop_is_ready_for_every_demo(stem, capsys):
    status, lines = doctor(stem, capsys)
    assert status == 0
    assert lines[-1] == f"Ready: python recipes/{stem}.py fit"
    assert any("no --data.root: the demo needs no data" in line for line in lines)
    time = re.compile(r"demo [\d.]+ min \(worst [\d.]+\) on two CPU cores")
    assert any(time.search(line) for line in lines)


@pytest.mark.parametrize("stem", STEMS)
def test_a_missing_folder_is_named_and_the_next_command_too(stem, capsys, tmp_path):
    folder = str(tmp_path / "nowhere")
    status, lines = doctor(stem, capsys, "--data.root", folder)
    assert status == 1
    assert [line for line in lines if line.startswith("  lacks  ") and folder in line]
    assert lines[-1].endswith(f"then run python recipes/{stem}.py doctor --data.root {folder}")


def test_the_next_command_keeps_all_flags(capsys, tmp_path):
    flags = ["--data.root", str(tmp_path / "my data"), "--data.num_days", "3"]
    _, lines = doctor("dlrm", capsys, *flags)
    again = f"doctor --data.root '{tmp_path}/my data' --data.num_days 3"
    assert lines[-1].endswith(f"then run python recipes/dlrm.py {again}")


def test_a_benchmark_whose_demo_was_not_measured_has_a_report(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        doctor_command, "demo_time", lambda stem: demo_time(stem, tmp_path / "none.csv")
    )
    _, lines = doctor("llama31_8b", capsys)
    text = " ".join(" ".join(lines).split())
    assert "demo not measured; real data as docs/llama31_8b.md expects, and 10 runs make" in text


@pytest.mark.parametrize("stem", STEMS)
def test_times_are_the_readmes_and_the_published_rounds(stem):
    needs = importlib.import_module(f"recipes.{stem}").BENCHMARK.needs
    for path, pattern in demo_times.places(stem).items():
        assert re.search(pattern, path.read_text())[1] == str(demo_time(stem)), path
    if needs.published_minutes is None:
        return
    with (ROOT / "tests/scoring/data/published_v1.0.csv").open() as file:
        scores = [
            float(r["minutes"])
            for r in csv.DictReader(file)
            if r["benchmark"] == stem
            and r["submitter"] == "NVIDIA"
            and r["system_name"].startswith("dgxa100_")
            and r["division"] == "closed"
            and r["total_accelerators"] == "8"
        ]
    assert len(scores) == 1
    assert needs.published_minutes == round(scores[0], 1)


def findings(datamodule):
    return [tuple(f) for f in doctor_command.examine(UNET3D, datamodule)]


def data(root, problems=(), prepared_dir=None):
    return SimpleNamespace(
        root=root,
        prepared_dir=prepared_dir,
        problems=lambda: list(problems),
        differences=lambda: [],
    )


def test_too_small_a_disk_blocks_a_download_only(tmp_path, monkeypatch):
    small = shutil._ntuple_diskusage(10**12, 10**12 - 40 * 10**9, 40 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: small)
    size = "40 GB free disk in .*; the whole data set: "
    kind, text = findings(data(tmp_path, ["no data"]))[-2]
    assert kind == "lacks"
    assert re.match(size + "download 30 GB, preprocessing 29 GB", text)
    kind, text = findings(data(tmp_path))[-2]
    assert kind == "has"
    assert re.match(size + "preprocessing 29 GB", text)
    (tmp_path / "manifest.json").write_text("{}")
    assert not any("free disk" in text for _, text in findings(data(tmp_path)))


def test_finished_shards_need_no_room_any_more(tmp_path):
    prepared = tmp_path / "finishline-imagenet"
    prepared.mkdir()
    (prepared / "train.index.npy").touch()
    found = findings(data(tmp_path))
    assert ("has", f"KiTS19 in {tmp_path}, preprocessed in {prepared}") in found
    assert not any("free disk" in text for _, text in found)


def test_an_unwritable_prepared_folder_is_named(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    found = findings(data(tmp_path, prepared_dir=blocker / "prepared"))
    wanted = f"{blocker / 'prepared'} cannot be written: choose a writable directory"
    assert ("lacks", f"{wanted} (--data.prepared_dir)") in found


def test_old_and_missing_libraries_are_named_with_the_remedy(monkeypatch):
    needed = ["torch<2.12,>=2.11", "absent-library>=3", "pytest; extra == 'test'"]
    monkeypatch.setattr(metadata, "requires", lambda name: needed)
    version = metadata.version
    old = {"torch": "2.4.0"}
    monkeypatch.setattr(metadata, "version", lambda name: old.get(name) or version(name))
    lacking = [text for kind, text in doctor_command._libraries() if kind == "lacks"]
    assert len(lacking) == 2
    assert "torch<2.12,>=2.11: version 2.4.0 is installed; pip install" in lacking[0]
    assert lacking[1].endswith("pip install 'absent-library>=3'")


def test_gpus_are_listed_and_too_little_memory_is_said(monkeypatch):
    card = SimpleNamespace(name="A Card", total_memory=40 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    found = [tuple(f) for f in doctor_command._devices()]
    assert found.count(("has", "A Card, 40 GiB")) == 2
    (line,) = shortages(DLRM, SimpleNamespace(), own_data=False)
    assert "the closed settings need 89.5 GiB of GPU memory; 80 GiB are available: use" in line
    card.total_memory = 45 * 2**30
    assert not [*shortages(DLRM, SimpleNamespace(), own_data=False)]
    assert not [*shortages(UNET3D, SimpleNamespace(), own_data=False)]


def test_on_a_cpu_the_machines_memory_is_what_counts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor_memory, "machine_bytes", lambda: 60 * 2**30)
    (line,) = shortages(DLRM, SimpleNamespace(), own_data=False)
    assert "need 89.5 GiB of memory, as there is no CUDA device; 60 GiB are available" in line
    own = SimpleNamespace(net_facts=lambda: {"table_sizes": [10**6] * 26})  # 12.4 GiB
    assert not [*shortages(DLRM, own, own_data=True)]
    own.net_facts = lambda: {"table_sizes": [10**7] * 26}
    (line,) = shortages(DLRM, own, own_data=True)
    assert line.startswith("the data need 124.0 GiB of memory")


@pytest.mark.parametrize(
    ("on_device", "devices", "wanted"),
    [
        (True, 0, "memory for games: 50.0 GiB, this machine has 40.0 GiB; play less"),
        (False, 0, "memory for games: 50.0 GiB, this machine has 40.0 GiB; play less"),
        (True, 2, "memory for games: 50.0 GiB, each device has 45.0 GiB; play less"),
        (
            False,
            2,
            "memory for games: 100.0 GiB (50.0 on each of 2 ranks), this machine has 40.0 GiB; "
            "play less",
        ),
    ],
)
def test_what_each_rank_keeps_in_memory_is_counted(on_device, devices, wanted, monkeypatch):
    monkeypatch.setattr(doctor_memory, "device_bytes", lambda: [45 * 2**30] * devices)
    monkeypatch.setattr(doctor_memory, "machine_bytes", lambda: 40 * 2**30)
    need = MemoryNeed("games", 50 * 2**30, on_device, "play less")
    data = SimpleNamespace(memory_needs=lambda: [need])
    assert [*shortages(UNET3D, data, own_data=False)] == [wanted]
    data.memory_needs = lambda: [need._replace(num_bytes=2**30)]
    assert not [*shortages(UNET3D, data, own_data=False)]


@pytest.mark.parametrize("stem", STEMS)
def test_every_data_modules_memory_is_counted_in_numbers(stem):
    benchmark = importlib.import_module(f"recipes.{stem}").BENCHMARK
    for need in benchmark.datamodule_class()().memory_needs():
        assert need.num_bytes >= 0
        assert need.advice


def test_doctor_lacks_what_fit_would_refuse(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_memory, "device_bytes", list)
    monkeypatch.setattr(doctor_memory, "machine_bytes", lambda: 2**30)
    lines = [f for f in doctor_command.examine(DLRM, data(tmp_path)) if f.kind == "lacks"]
    assert any("need 89.5 GiB of memory" in line.text for line in lines)


def test_a_driver_that_torch_cannot_use_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert [kind for kind, _ in doctor_command._devices()] == ["has", "lacks"]


def test_files_missing_from_a_folder_preprocessed_elsewhere_are_named(tmp_path, capsys):
    for case in range(210):
        for end in "xy":
            (tmp_path / f"case_{case:05d}_{end}.npy").touch()
    (tmp_path / "case_00003_x.npy").unlink()
    status, lines = doctor("unet3d", capsys, "--data.root", str(tmp_path))
    assert status == 1
    lacking = [line for line in lines if line.startswith("  lacks")]
    assert lacking == [
        f"  lacks  {tmp_path}/case_00003_x.npy: missing; copy it again, or give the raw data's "
        "directory"
    ]


def test_room_for_three_checkpoints_is_asked_for_before_a_run(monkeypatch, tmp_path):
    small = SimpleNamespace(free=1e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: small)
    bert = importlib.import_module("recipes.bert").BENCHMARK
    line = doctor_command.checkpoint_problem(bert, tmp_path / "runs")
    assert line.startswith(f"{tmp_path} has 1.0 GB free, 3 checkpoints of a run need 12.0 GB; ")
    small.free = 12e9
    assert doctor_command.checkpoint_problem(bert, tmp_path / "runs") is None
