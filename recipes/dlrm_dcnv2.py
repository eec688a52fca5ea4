"""DLRM-DCNv2 on multi-hot Criteo 1TB: predict clicks (MLPerf Training v3.0 to v6.0 "dlrm_dcnv2").

Target    area under the ROC curve >= 0.80275 over the first half of day 23 (89,137,319 rows)
Data      Criteo 1TB Click Logs, 4.2 billion training rows, 350 GB compressed (Criteo AI Lab);
          the bags of 214 ids a row are made on the fly, or read from the published 3.8 TB
Network   bottom MLP, 26 tables with 204,184,588 rows of 128, three low-rank cross layers, top MLP:
          26 billion parameters, 97.4 GiB in fp32, 194.7 with Adagrad's sums
Expect    demo: 0.2 min (worst 0.3); closed division: 0.7 to 1 epoch

    python recipes/dlrm_dcnv2.py fit                                  demo, no download
    python recipes/dlrm_dcnv2.py prepare --data.root DIR              text to training columns
    python recipes/dlrm_dcnv2.py fit --data.root DIR --data.batch_size 6912 \\
        --trainer.devices 8 --trainer.strategy ddp                    closed reference
    python recipes/dlrm_dcnv2.py fit --data.root DIR --model.net my.Net     open division
    python recipes/dlrm_dcnv2.py fit --config recipes/presets/dlrm_dcnv2/h200x8.yaml --data.root DIR
"""

from datamodules.criteo.store import REFERENCE_ROWS
from recipes.cli.benchmark import Benchmark, Needs, Rule
from recipes.cli.main import main

EVALUATIONS = 20  # in the one epoch that a run may take


def evaluation_every(global_batch_size: int) -> int:
    """Return the rows between two evaluations: whole steps, at most a twentieth of the epoch."""
    steps = REFERENCE_ROWS["train"] // (global_batch_size * EVALUATIONS)
    return steps * global_batch_size


BENCHMARK = Benchmark(
    name="dlrm_dcnv2",
    area="recommendation",
    dataset="Criteo 1TB Click Logs",
    module="modules.dlrm_dcnv2.DCNv2Module",
    datamodule="datamodules.criteo.multi_hot.MultiHotDataModule",
    metrics={"auc": 0.80275},
    mode="max",
    runs=10,
    dropped=1,
    evaluation={
        "unit": "samples",
        "round_to": "step",
        "every": evaluation_every(55_296),
        # One epoch: the twentieth evaluation comes at most 20 steps before its end.
        "limit": REFERENCE_ROWS["train"],
    },
    evaluation_every=evaluation_every,
    closed=(
        Rule(
            "data.num_days",
            "closed trains on days 0 to 22 and tests on day 23",
            allows=lambda days: days in (None, 24),
        ),
        Rule("data.max_rows", "a table has at most 40,000,000 rows"),
    ),
    free_net_arguments=("kernels",),
    progress_unit="fraction_from_zero",
    needs=Needs(
        download_gb=350,
        prepared_gb=1450,
        checkpoint_gb=209,
        device_gib=194.7,
        device_gib_of=lambda facts: sum(facts["table_sizes"]) * 128 * 8 / 2**30,
        source="24 archives; 204,184,588 rows of 128 fp32 numbers and as many of Adagrad's sums",
    ),
    source="mlcommons/training @ aa344c7, recommendation_v2/torchrec_dlrm; training_rules.adoc",
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
