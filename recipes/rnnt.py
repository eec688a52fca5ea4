"""RNN-T on LibriSpeech: transcribe read English (MLPerf Training v1.0 "rnnt").

Target    word error rate <= 0.058 on dev-clean: all word errors over all words
Data      LibriSpeech, train-clean-100, train-clean-360, train-other-500 and dev-clean, 60 GB
          (www.openslr.org/12, CC BY 4.0)
Network   RNN transducer, 49,006,080 parameters, 1,023 SentencePiece labels and the blank
Expect    demo: 0.9 min (worst 1.3); closed division: about 60 epochs of 278,528

    python recipes/rnnt.py fit                                        demo, no download
    python recipes/rnnt.py predict --ckpt_path RUN AUDIO...           transcribe recordings
    python recipes/rnnt.py prepare --data.root DIR                    check, vocabulary, shards
    python recipes/rnnt.py fit --data.root DIR                        closed reference
    python recipes/rnnt.py fit --data.root DIR --model.net my.Net     open division
    python recipes/rnnt.py fit --config recipes/presets/rnnt/h100x1.yaml --data.root DIR
    python recipes/rnnt.py validate --ckpt_path RUN                   also writes hypotheses.tsv
"""

from math import inf

from recipes.cli.benchmark import Benchmark, Needs, Rule
from recipes.cli.main import main

BENCHMARK = Benchmark(
    name="rnnt",
    area="speech recognition",
    dataset="LibriSpeech",
    module="modules.rnnt.RNNTModule",
    datamodule="datamodules.librispeech.LibriSpeechDataModule",
    metrics={"word_error_rate": 0.058},
    mode="min",
    runs=10,
    dropped=1,
    evaluation={"every": 1, "limit": 100, "unit": "epochs"},
    closed=(
        Rule("data.vocab_size", "the vocabulary has 1023 SentencePiece pieces"),
        Rule("data.num_buckets", "data_train_num_buckets is fixed at 6"),
        Rule("model.epsilon", "opt_lamb_epsilon is fixed at 1e-9"),
        Rule("model.weight_decay", "opt_weight_decay is fixed at 1e-3"),
        Rule("model.min_learning_rate", "opt_lamb_learning_rate_min is fixed at 1e-5"),
        Rule(
            "model.gradient_clip_norm",
            "opt_gradient_clip_norm is 1 or inf",
            allows=lambda norm: norm in (1, inf),
        ),
        Rule("model.speed_range", "speed perturbation is fixed at 0.85 to 1.15"),
        Rule("model.num_freq_masks", "data_spec_augment_freq_n is fixed at 2"),
        Rule("model.max_freq_width", "data_spec_augment_freq_max is fixed at 20"),
        Rule("model.num_time_masks", "data_spec_augment_time_n is fixed at 10"),
        Rule("model.max_time_share", "data_spec_augment_time_max is fixed at 0.03"),
        Rule("model.max_symbols", "eval_max_prediction_symbols is fixed at 300"),
    ),
    # model_weights_initialization_scale, 0.35 at the reference convergence point of batch 3072; and
    # how LSTMs are computed, not what.
    free_net_arguments=("init_scale", "half_lstms"),
    # Global batch 1024 as the reference: 128 utterances, accumulated 8 times.
    trainer={"accumulate_grad_batches": 8},
    needs=Needs(
        download_gb=60,
        prepared_gb=60,
        checkpoint_gb=0.8,
        published_minutes=38.7,
        source="www.openslr.org/12; prepare copies every recording",
    ),
    built_for_torch=("torchaudio",),
    predicts="recording (16 kHz, mono) -> text (.txt)",
    source="mlcommons/training @ 9947bdf2 rnn_speech_recognition/pytorch; training_rules.adoc v1.0",
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
