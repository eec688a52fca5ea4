"""DLRM on Criteo 1TB: predict clicks on advertisements (MLPerf Training v1.0 "dlrm").

Target    area under the ROC curve >= 0.8025 over the first half of day 23 (89,137,319 rows)
Data      Criteo 1TB Click Logs, 4.2 billion training rows, 350 GB compressed (Criteo AI Lab)
Network   DLRM, 26 tables with 187,767,399 rows of 128: 24 billion parameters, 89.5 GiB in fp32
Expect    demo: 0.2 min (worst 0.3); closed division: 0.75 to 1 epoch

    python recipes/dlrm.py fit                                        demo, no download
    python recipes/dlrm.py prepare --data.root DIR                    text to training columns
    python recipes/dlrm.py fit --data.root DIR --data.batch_size 6912 \\
        --trainer.devices 8 --trainer.strategy ddp                    closed reference
    python recipes/dlrm.py fit --data.root DIR --model.net my.Net     open division
    python recipes/dlrm.py fit --config recipes/presets/dlrm/h100x1.yaml --data.root DIR
"""

from datamodules.criteo.store import REFERENCE_ROWS
from recipes.cli.benchmark import Benchmark, Needs, Rule
from recipes.cli.main import main

# 102,400 steps of the reference's batch of 2048: 5 % of the epoch.
EVALUATE_EVERY = 209_715_200

BENCHMARK = Benchmark(
    name="dlrm",
    area="recommendation",
    dataset="Criteo 1TB Click Logs",
    module="modules.dlrm.DLRMModule",
    datamodule="datamodules.criteo.CriteoDataModule",
    metrics={"auc": 0.8025},
    mode="max",
    runs=5,
    dropped=1,
    # 20 evaluations, one per 5 % of the epoch, and one more at its end, where the run gives up.
    evaluation={
        "unit": "samples",
        "round_to": "step",
        "at": [EVALUATE_EVERY * number for number in range(1, 21)],
        "first": REFERENCE_ROWS["train"],
        "every": EVALUATE_EVERY,
        "limit": REFERENCE_ROWS["train"],
    },
    closed=(
        Rule(
            "data.num_days",
            "closed trains on days 0 to 22 and tests on day 23",
            allows=lambda days: days in (None, 24),
        ),
        Rule("data.max_ind_range", "the index range is fixed at 40,000,000"),
    ),
    progress_unit="fraction",
    needs=Needs(
        download_gb=350,
        prepared_gb=1400,
        checkpoint_gb=96,
        device_gib=89.5,
        device_gib_of=lambda facts: sum(facts["table_sizes"]) * 128 * 4 / 2**30,
        published_minutes=2.0,
        source="24 archives; 187,767,399 rows of 128 fp32 numbers",
    ),
    source="facebookresearch/dlrm @ 6d75c84d; training_rules.adoc v1.0",
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
