"""BERT-large on Wikipedia: predict masked words (MLPerf Training v1.0 "bert").

Target    masked-word accuracy >= 0.720 on 10,000 held-out samples, from a given checkpoint of 0.34
Data      English Wikipedia of 2020-01-01, cleaned text, about 13 GB (MLCommons, CC BY-SA)
Network   BERT-large, 336,226,108 parameters, sequences of up to 512 word pieces
Expect    demo: 0.7 min (worst 0.8); closed division: about 2.5 million samples

    python recipes/bert.py fit                                        demo, no download
    python recipes/bert.py predict --ckpt_path RUN TEXT...            fill in [MASK]
    python recipes/bert.py prepare --data.root DIR                    check and tokenise the text
    python recipes/bert.py validate --data.root DIR                   check the given checkpoint
    python recipes/bert.py fit --data.root DIR                        closed reference
    python recipes/bert.py fit --data.root DIR --model.net my.Net     open division
    python recipes/bert.py fit --config recipes/presets/bert/h100x1.yaml --data.root DIR
"""

from recipes.cli.benchmark import Benchmark, Needs, Rule
from recipes.cli.main import main


def evaluation_interval(global_batch_size: int) -> int:
    """Return the samples between evaluations, a multiple of 25,000: 150,000 up to batch 2048."""
    return int(0.05 * (230.23 * global_batch_size + 3_000_000)) // 25_000 * 25_000


BENCHMARK = Benchmark(
    name="bert",
    area="language modelling",
    dataset="Wikipedia 2020-01-01",
    module="modules.bert.BertModule",
    datamodule="datamodules.wikipedia.WikipediaDataModule",
    metrics={"masked_lm_accuracy": 0.720},
    mode="max",
    runs=10,
    dropped=1,
    # The longest schedule of all reference convergence points, 500 steps of 12,288: after it the
    # learning rate is 0.
    evaluation={"every": 150_000, "limit": 6_144_000, "unit": "samples", "round_to": "step"},
    evaluation_every=evaluation_interval,
    closed=(
        Rule("data.max_seq_length", "max_sequence_length is fixed at 512"),
        Rule("data.max_predictions", "max_predictions_per_seq is fixed at 76"),
        Rule("data.masked_lm_prob", "preprocessing is the reference's: 0.15 of the words"),
        Rule("data.short_seq_prob", "preprocessing is the reference's: 0.1 short articles"),
        Rule("data.dupe_factor", "preprocessing is the reference's: ten passes"),
        Rule("data.sample_seed", "preprocessing is the reference's: seed 12345"),
        Rule("data.num_eval_samples", "eval_samples is fixed at 10,000"),
        Rule(
            "data.vocab_size",
            "the vocabulary is the reference's",
            allows=lambda n: n in (None, 30_522),
        ),
        Rule(
            "data.published_text", "the text is the published one", allows=lambda t: t is not False
        ),
        # 20 parts are more samples than the longest closed schedule; with fewer some would repeat.
        Rule("data.num_parts", "no sample is repeated: at least 20", allows=lambda n: n >= 20),
        Rule("evaluation.limit", "any", allows=lambda limit: True),  # when a run gives up is free
        Rule("model.from_scratch", "training starts from the given checkpoint"),
        Rule("model.checkpoint", "training starts from the given checkpoint"),
        Rule("model.max_grad_norm", "the gradient clipping norm is fixed at 1.0"),
    ),
    progress_unit="samples",
    # 8 batches of 32 make the reference convergence point of 256 on one device.
    trainer={"accumulate_grad_batches": 8},
    needs=Needs(
        download_gb=17.1,
        prepared_gb=5,
        checkpoint_gb=4,
        published_minutes=21.7,
        source="MLCommons' two bundles; 20 parts of 0.25 GB",
    ),
    predicts="text with [MASK] (a file, or the text itself) -> words (.txt)",
    source="mlcommons/training @ 9947bdf2 language_model/tensorflow/bert; training_rules.adoc v1.0",
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
