"""Two ranks whose values differ take one decision, rank 0's, at every evaluation."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from callbacks.quality_target import QualityTarget
from tests.toy import ToyData, ToyModule, toy_trainer

# Values of each rank's evaluations; the target is 0.8.
CASES = {
    "only rank 0 reaches it": ([0.9, 0.9, 0.9], [0.1, 0.1, 0.1]),
    "only rank 1 reaches it": ([0.1, 0.1, 0.9], [0.9, 0.9, 0.1]),
    "rank 1 alone has no number": ([0.1, 0.9, 0.9], [0.1, float("nan"), 0.9]),
    "rank 1 alone has no number before": ([0.1, 0.9, 0.9], [float("nan"), 0.9, 0.9]),
}
EVALUATIONS = {
    "only rank 0 reaches it": 1,
    "only rank 1 reaches it": 3,
    "rank 1 alone has no number": 2,
    "rank 1 alone has no number before": 2,
}


def train(rank: int, folder: str) -> None:
    # As torchrun names them, so that Lightning joins these processes and starts none.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", meet, timedelta(seconds=60), rank=rank, world_size=2)
    seen = {}
    for name, scripts in CASES.items():
        target = QualityTarget({"score": 0.8}, "max")
        trainer = toy_trainer([target], devices=2, strategy="ddp")
        trainer.fit(ToyModule(scripts[rank]), datamodule=ToyData())
        state = target.state
        values = [evaluation.quality["score"] for evaluation in state.evaluations]
        seen[name] = [len(values), trainer.global_step, state.stop_reason, values[-1]]
    Path(folder, f"rank{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_with_unequal_values_stop_together(tmp_path):
    mp.spawn(train, args=(str(tmp_path),), nprocs=2)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for name, evaluations in EVALUATIONS.items():
        for rank, seen in enumerate(ranks):
            count, steps, reason, value = seen[name]
            assert (count, steps, reason) == (evaluations, evaluations * 6, "TARGET_REACHED"), name
            # Each still reports its own value.
            assert value == pytest.approx(CASES[name][rank][evaluations - 1], nan_ok=True)
