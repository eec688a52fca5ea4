"""Mini Go: learn 19 x 19 Go by self-play (MLPerf Training v1.0 "minigo").

Target    win at least 50 % of 256 games against a fixed network
Data      games of the network against itself; the starting checkpoint with 5 generations of games
          and the target network are given (public bucket minigo-pub, folder ml_perf/0.7)
Network   13 planes, 6 residual blocks of 64 channels, 736,671 parameters, 0.33 GFLOP per position
Expect    demo: 0.5 min (worst 0.5), 5 x 5 board; closed division: 35
          to 46 generations of 8,192 games

    python recipes/minigo.py fit                                        demo, no download
    python recipes/minigo.py predict --ckpt_path RUN GAME.sgf           choose the next move
    python recipes/minigo.py prepare --data.root DIR                    check all given games
    python recipes/minigo.py fit --data.root DIR                        closed reference
    python recipes/minigo.py fit --config recipes/presets/minigo/h100x1.yaml --data.root DIR
    python recipes/minigo.py gtp --ckpt_path FILE                       play against it (GTP 2)
"""

from recipes.cli.benchmark import Benchmark, Needs, Rule
from recipes.cli.main import main

FIXED = (
    "size", "komi", "window", "train_filter", "eval_games", "virtual_losses", "slow_readouts",
    "fast_readouts", "fast_share", "noise_alpha", "noise_mix", "soft_plies", "pass_alive_plies",
    "resign_threshold", "max_plies", "benson",
)  # fmt: skip

BENCHMARK = Benchmark(
    name="minigo",
    area="reinforcement learning",
    dataset="self-play on 19 x 19",
    module="modules.minigo.MiniGoModule",
    datamodule="datamodules.selfplay.SelfPlayDataModule",
    metrics={"win_rate": 0.5},
    mode="max",
    runs=10,
    dropped=1,
    # An epoch is a generation; none may be skipped.
    evaluation={"every": 1, "limit": 100},
    closed=(
        Rule("data.games_per_generation", "min_selfplay_games_per_generation is fixed at 8192"),
        *(Rule(f"data.{name}", "search, window and filter are fixed") for name in FIXED),
        Rule("evaluation.limit", "a run may stop after any generation", lambda limit: limit > 0),
        Rule("model.size", "the board is 19 x 19"),
        Rule("model.komi", "komi is fixed at 7.5"),
        Rule("model.momentum", "the optimizer is SGD with momentum 0.9"),
        Rule("model.weight_decay", "the L2 penalty is fixed at 1e-4"),
        Rule("model.value_weight", "the value's weight is fixed at 0.5"),
        Rule("model.eval_readouts", "evaluation searches 100 times per move"),
        Rule("model.eval_virtual_losses", "virtual losses are fixed at 4"),
        Rule("model.pass_alive_plies", "a game of pass-alive points alone ends after 133 moves"),
        Rule("model.max_plies", "an evaluation game ends after 1,444 moves"),
        Rule("model.benson", "games are scored by the reference's pass-alive rule"),
    ),
    trainer={"reload_dataloaders_every_n_epochs": 1},
    # Batches of games vary in size, unless they are played through CUDA graphs.
    warmup={"cudnn_benchmark": False},
    commands={"gtp": "recipes.cli.gtp.gtp"},
    needs=Needs(
        download_gb=None,
        prepared_gb=0.02,
        published_minutes=269.5,
        source="prepare writes only records; the size of the given files is not published",
    ),
    predicts="Go position (an SGF file, or its text) -> move (.json, .sgf) and board",
    source="mlcommons/training @ 9947bdf2 reinforcement/tensorflow/minigo; training_rules v1.0",
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
