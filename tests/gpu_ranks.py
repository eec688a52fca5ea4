"""Several ranks (NCCL on GPUs, Gloo on CPUs) against one: the same result, and how they scale.

    python -m tests.gpu_ranks --devices 8 [--device cpu] [--out DIR]

BERT's demo trains five steps of the same global batch on one rank, on N with DDP and on N with
FSDP2, and is evaluated; the losses must agree. Then ResNet-50 trains on random images with DDP, the
same batch per rank on one and on N ranks. Writes ``ranks.json``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
# Sums in another order; ranks that keep their gradients to themselves are 6e-4 apart.
TOLERANCE = 1e-4
NOT_REACHED = 3
PER_RANK, STEPS, SKIPPED = {"cuda": 208, "cpu": 2}, {"cuda": 30, "cpu": 3}, {"cuda": 10, "cpu": 1}
SIDE = {"cuda": 224, "cpu": 64}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu_ranks", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"))
    parser.add_argument("--worker", action="store_true", help="be one of the ranks that scale")
    given = parser.parse_args(arguments)
    if given.worker:
        print(json.dumps(images_per_second(given.device)), flush=True)
        return 0
    facts: dict[str, Any] = {"devices": given.devices, "device": given.device}
    facts |= compare(given.device, given.devices)
    path = given.out / "ranks.json"
    path.write_text(json.dumps(facts))  # at once: the rest may be stopped
    facts |= scale(given.device, given.devices)
    path.write_text(json.dumps(facts))
    return 0 if all(facts["equal"].values()) else 1


def compare(device: str, devices: int) -> dict[str, Any]:
    """Return the evaluation losses of one rank and of several, and whether they agree."""
    one = evaluation_loss(device, 1, "auto", 8 * devices)
    losses = {name: evaluation_loss(device, devices, name, 8) for name in ("ddp", "fsdp2")}
    equal = {name: abs(loss - one) <= TOLERANCE * one for name, loss in losses.items()}
    return {"one": one, "losses": losses, "equal": equal}


def evaluation_loss(device: str, devices: int, strategy: str, batch_size: int) -> float:
    """Train BERT's demo for five steps and return its evaluation loss."""
    samples = str(5 * devices * batch_size)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "recipes/bert.py", "fit", "--output_root", folder]
        command += ["--config", "recipes/presets/bert/demo.yaml", "--seed_everything", "3"]
        command += ["--trainer.accelerator", "gpu" if device == "cuda" else "cpu"]
        command += ["--trainer.devices", str(devices), "--trainer.strategy", strategy]
        command += ["--data.batch_size", str(batch_size), "--data.num_eval_samples", "60"]
        command += ["--data.num_parts", "2", "--data.dupe_factor", "1"]
        command += ["--evaluation.every", samples, "--evaluation.limit", samples]
        command += ["--model.learning_rate", "0.1"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != NOT_REACHED:
            line = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise SystemExit(
                f"{devices} ranks with {strategy} ended with {done.returncode}: {line}"
            )
        path = next(Path(folder, "bert").glob("*")) / "metrics.csv"
        with path.open() as file:
            values = [row["val/masked_lm_loss"] for row in csv.DictReader(file)]
    return float([value for value in values if value][-1])


def scale(device: str, devices: int) -> dict[str, Any]:
    """Return the images per second of one rank and of several, and the efficiency."""
    one, every = (launch(device, count) for count in (1, devices))
    return {"samples_per_second": {"one": one, "all": every}, "efficiency": every / one / devices}


def launch(device: str, devices: int) -> float:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(devices)]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    command += ["-m", "tests.gpu_ranks", "--worker", "--device", device]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{devices} ranks of ResNet-50: {reason(done)}")
    return float(max(json.loads(line) for line in done.stdout.splitlines()))


def reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines() or ["no output"]
    return f"ended with {done.returncode}: {lines[-1]}"


def images_per_second(device: str) -> float:
    """Train ResNet-50 on random images as one of the ranks; return all ranks' images per second."""
    from modules.resnet.net import ResNet

    rank = int(os.environ.get("LOCAL_RANK", 0))
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    net = ResNet().to(device, memory_format=torch.channels_last)
    net = torch.nn.parallel.DistributedDataParallel(net, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    image = torch.randn(PER_RANK[device], 3, SIDE[device], SIDE[device], device=device)
    image = image.contiguous(memory_format=torch.channels_last)
    label = torch.randint(1000, (PER_RANK[device],), device=device)
    start = 0.0
    for step in range(STEPS[device]):
        if step == SKIPPED[device]:
            wait(device)
            start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16):
            loss = F.cross_entropy(net(image), label)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    wait(device)
    seconds = time.perf_counter() - start
    count = (STEPS[device] - SKIPPED[device]) * PER_RANK[device] * dist.get_world_size()
    dist.destroy_process_group()
    return count / seconds


def wait(device: str) -> None:
    """Wait for the device, then for the other ranks."""
    if device == "cuda":
        torch.cuda.synchronize()
    dist.barrier()


if __name__ == "__main__":
    raise SystemExit(main())
