"""Mini Go's data: games of the network under training against itself; an epoch is a generation.

The data root is the benchmark's given checkpoint, unpacked (see ``find_files``). The first epoch
trains on the checkpoint's games. For each later one the games of the newest network are played,
inside the clock and in threads of their own: they start after an epoch's last step, run during the
evaluation, and continue for a while during the next training. The module provides the network:
it sets ``playing`` in its ``setup`` and calls ``begin_generation`` after each epoch's last step.

Facts: mlcommons/training @ 9947bdf2, reinforcement/tensorflow/minigo/ml_perf.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from datamodules.common.base import BenchmarkDataModule
from datamodules.common.cache import build_once, demo_folder
from datamodules.common.memory import MemoryNeed
from datamodules.common.progress import stage
from datamodules.common.sampling import (
    EpochSampler,
    evaluation_indices,
    ranks,
    resume_position,
    run_seed,
)
from datamodules.selfplay.check import (
    changed_lines,
    check_games,
    notes_on_unread_games,
    read_check,
)
from datamodules.selfplay.files import Files, find_files, unlike_the_given
from datamodules.selfplay.gather import gather_from_all_ranks
from datamodules.selfplay.go.board import MAX_PLIES
from datamodules.selfplay.go.features import PLANES
from datamodules.selfplay.go.games import Network, SelfPlay, compile_search
from datamodules.selfplay.go.moves import Rules
from datamodules.selfplay.go.players import Players, PlayersState
from datamodules.selfplay.go.records import read_game
from datamodules.selfplay.inputs import PositionInputs
from datamodules.selfplay.memory import GIB, memory_plan
from datamodules.selfplay.speed import SpeedOfPlay
from datamodules.selfplay.window import (
    Generation,
    WindowExamples,
    choose_examples,
    extend_generation,
    make_generation,
    pack_generation,
    pack_players,
    players_shape,
    unpack_generation,
    unpack_players,
)

SELFPLAY_STREAM = 71


class SelfPlayDataModule(PositionInputs, SpeedOfPlay, BenchmarkDataModule):
    """Play games with the module's network and train on those of the newest generations.

    The defaults are the closed reference on one device.

    Args:
        root: Directory with the initial checkpoint and the target network. None generates those of
            the demo.
        prepared_dir: Directory for the records of ``prepare``; default ``finishline-minigo`` in the
            root.
        batch_size: Examples per device and step.
        size: Points per side of the board, 5 to 19; the given games and networks must have it.
        komi: Points that White gets for moving second.
        games_per_generation: Games, over all devices, that a generation needs. Of a given one that
            has fewer, all are taken.
        window: Newest generations to train on.
        train_filter: Share of the examples kept, in (0, 1].
        eval_games: Games per evaluation, half of them with each colour.
        games_at_once: Running games per worker; their leaves form one batch of the network.
        workers: Threads per device that play.
        overlap: Play during evaluation and training; False plays, trains and evaluates in turn.
        play_ahead: With overlap, how long players continue with a model while the next one is
            trained, as a share (0 to 1) of the batches that its generation took.
        virtual_losses: Leaves of one game in a network batch.
        slow_readouts: Searches per move that becomes an example.
        fast_readouts: Searches per other move.
        fast_share: Probability that a move is such a fast one, which becomes no example.
        noise_alpha: Dirichlet concentration of the noise at the root.
        noise_mix: Share of the noise in the priors at the root, 0 to 1.
        soft_plies: First moves, drawn in proportion to visits.
        pass_alive_plies: Moves after which a decided game ends.
        resign_threshold: Range from which each game draws the value, for the player to move, below
            which it resigns; below -1 nobody resigns.
        max_plies: Moves after which a game is scored as it is, at most 2048.
        benson: Pass-alive by Benson's own rule.

    Raises:
        ValueError: If a number is out of range; one line each.
    """

    def __init__(
        self,
        *,
        root: Path | None = None,
        prepared_dir: Path | None = None,
        batch_size: int = 4096,
        size: int = 19,
        komi: float = 7.5,
        games_per_generation: int = 8192,
        window: int = 5,
        train_filter: float = 0.3,
        eval_games: int = 256,
        games_at_once: int = 256,
        workers: int = 1,
        overlap: bool = True,
        play_ahead: float = 0.01,
        virtual_losses: int = 4,
        slow_readouts: int = 800,
        fast_readouts: int = 80,
        fast_share: float = 0.75,
        noise_alpha: float = 0.03,
        noise_mix: float = 0.3,
        soft_plies: int = 30,
        pass_alive_plies: int = 133,
        resign_threshold: tuple[float, float] = (-1.0, -0.9),
        max_plies: int = 1444,
        benson: bool = False,
    ) -> None:
        super().__init__()
        self.demo = root is None
        self.root = None if root is None else Path(root)
        self.prepared_dir = None if prepared_dir is None else Path(prepared_dir)
        self.benson = benson
        self.batch_size, self.size, self.komi = batch_size, size, komi
        self.games_per_generation, self.window = games_per_generation, window
        self.train_filter, self.eval_games = train_filter, eval_games
        self.games_at_once, self.workers, self.play_ahead = games_at_once, workers, play_ahead
        self.overlap, self.virtual_losses = overlap, virtual_losses
        self.num_workers = 0  # the examples are in this process
        self.rules = Rules(
            slow_readouts=slow_readouts, fast_readouts=fast_readouts, fast_share=fast_share,
            noise_alpha=noise_alpha, noise_mix=noise_mix, soft_plies=soft_plies,
            pass_alive_plies=pass_alive_plies, resign_low=resign_threshold[0],
            resign_high=resign_threshold[1], max_plies=max_plies,
        )  # fmt: skip
        self._check_ranges()
        self.playing: Callable[[], Network] | None = None
        self._generations: list[Generation] = []
        self._players: Players | None = None
        self._resumed: list[PlayersState] = []
        self._steps = 0

    def _check_ranges(self) -> None:
        """Raise one ValueError for all arguments that are out of range."""
        ranges = {
            "size": ("5 to 19", 5 <= self.size <= 19),
            "train_filter": ("in (0, 1]", 0 < self.train_filter <= 1),
            "eval_games": ("even, at least 2", self.eval_games % 2 == 0 < self.eval_games),
            "play_ahead": ("in [0, 1]", 0 <= self.play_ahead <= 1),
            "max_plies": (f"1 to {MAX_PLIES}", 1 <= self.rules.max_plies <= MAX_PLIES),
        }
        counts = ("batch_size", "games_per_generation", "window", "games_at_once", "workers")
        searches = ("virtual_losses", "slow_readouts", "fast_readouts")
        values = {**vars(self), **self.rules._asdict()}
        ranges |= {name: ("at least 1", values[name] >= 1) for name in counts + searches}
        problems = [
            f"{name} must be {allowed}, got {values[name]}"
            for name, (allowed, good) in ranges.items()
            if not good
        ]
        if problems:
            raise ValueError("\n".join(problems))

    # Files.

    @property
    def checkpoint(self) -> Path:
        """Prefix of the given training checkpoint."""
        return self._files.checkpoint

    @property
    def target(self) -> Path:
        """Prefix of the target's checkpoint."""
        return self._files.target

    @cached_property
    def _files(self) -> Files:
        return find_files(self._source)

    @property
    def _source(self) -> Path:
        from datamodules.selfplay.demo import VERSION, demo_parameters

        return self.root or demo_folder("minigo", VERSION, demo_parameters(self))

    @property
    def _prepared(self) -> Path:
        return self.prepared_dir or self._source / "finishline-minigo"

    def prepare_data(self) -> None:
        """Make the demo's files, or check that the real ones exist.

        Raises:
            FileNotFoundError: If the root lacks a file.
            ValueError: One line per problem.
        """
        with stage("compiling the Go engine"):  # one process does it here while the others wait
            compile_search()
        if self.demo:
            from datamodules.selfplay.demo import write_demo

            build_once(self._source, lambda folder: write_demo(folder, self))
        if lines := self._missing():
            raise FileNotFoundError("\n".join(lines))
        devices = getattr(self.trainer, "num_devices", 1)
        if not self.demo and not (plan := memory_plan(self)).fits(devices):
            print(f"Warning: {plan.text(devices)}", flush=True)

    def prepare(self) -> None:
        """Read the games that a run would start with, after ``prepare_data``, and print the result.

        What was read before and has not changed since is not read again.

        Raises:
            FileNotFoundError: If the root lacks a file.
            ValueError: One line per game that is damaged or of another board size.
        """
        self.prepare_data()
        games = self._files.newest(self.window)
        checked = check_games(
            self._files, self.window, self.size, self._prepared, self._source,
            show_progress=not self.demo,
        )  # fmt: skip
        counts = ", ".join(f"{model}: {len(of_model)}" for model, of_model in games.items())
        print(
            f"Mini Go is ready in {self._source}: {checked.examples:,} examples, games per model "
            f"{counts}"
        )
        for line in (*self._notes_on_games(), *self.differences()):
            print(f"Note: {line}")

    def problems(self) -> list[str]:
        """List what makes this root unusable.

        Returns:
            One line per problem: what, where, what to do; empty if there is none.
        """
        return self._missing() or changed_lines(self._prepared, self._source)

    def _missing(self) -> list[str]:
        """List what prevents training; the files' content is not compared."""
        if self.root is not None and not self.root.is_dir():
            return [f"data.root {self.root} is not a directory"]
        try:
            games = self._files.newest(self.window)
        except (FileNotFoundError, ValueError) as error:
            return str(error).splitlines()
        return [
            f"{self._source}: model {model} has no games; remove its directory"
            for model, of_model in games.items()
            if not of_model
        ]

    def notes(self) -> list[str]:
        """List what the doctor reports besides problems."""
        memory = memory_plan(self).text()
        return [memory] if self.problems() else [*self._notes_on_games(), memory]

    def memory_needs(self) -> list[MemoryNeed]:
        """Return the window of games and the search trees."""
        plan = memory_plan(self)
        what = f"games ({plan.games / GIB:.1f} GiB) and search trees ({plan.trees / GIB:.1f} GiB)"
        advice = "reduce --data.workers or --data.games_at_once"
        return [MemoryNeed(what, plan.games + plan.trees, False, advice)]

    def _notes_on_games(self) -> list[str]:
        games, checked = self._files.newest(self.window), read_check(self._prepared)
        return notes_on_unread_games(games, self.window, self.games_per_generation, checked)

    def differences(self) -> list[str]:
        """List how the given games differ from those of ``checkpoint.tar.gz``.

        Returns:
            One line per difference; copies of games are known once ``prepare`` has run.
        """
        if self.demo or self._missing():
            return []
        copies = read_check(self._prepared).get("copies", 0)
        lines = unlike_the_given(self._files.newest(5))
        return lines + [f"{copies:,} games are copies of another one"] * bool(copies)

    def net_facts(self) -> dict[str, Any]:
        """Return what the data fixes about a network: ``size`` of the board and its planes."""
        return {"size": self.size, "in_channels": PLANES}

    # Games.

    @property
    def samples_per_epoch(self) -> int:
        """Examples of the current epoch, whole global batches; 0 before the first."""
        return self._steps * self.global_batch_size

    def train_dataloader(self) -> DataLoader[Any]:
        """Wait for the generation's games if needed and choose the epoch's examples.

        Called before every epoch (``reload_dataloaders_every_n_epochs`` is 1).

        Returns:
            This rank's loader for the next epoch.

        Raises:
            ValueError: If there are too few games or examples, or the trainer would not call again.
        """
        if self.trainer is not None and self.trainer.reload_dataloaders_every_n_epochs != 1:  # type: ignore[attr-defined]
            raise ValueError(
                "trainer.reload_dataloaders_every_n_epochs must be 1: every epoch has its own games"
            )
        epoch, done = resume_position(self.trainer)
        if not self._generations:
            self._generations = self._given_generations()
        model = max(self._files.games) + epoch
        # A resumed run has the epoch's games in its checkpoint.
        if epoch and self._generations[-1].model < model:
            self._collect(model)
        chosen = choose_examples(
            self._generations, self.games_per_generation, self.train_filter, run_seed(), epoch
        )
        self._steps = len(chosen.outcome) // self.global_batch_size
        if not self._steps:
            raise ValueError(
                f"generation {epoch}: {len(chosen.outcome)} examples are fewer than one batch of "
                f"{self.global_batch_size}; use more games per generation or a smaller batch"
            )
        rank, world_size = ranks(self.trainer)
        sampler = EpochSampler(
            self.samples_per_epoch,
            self.global_batch_size,
            rank,
            world_size,
            self.batch_size,
            run_seed(),
            shuffle=False,  # chosen in random order already
            start_batch=done,
            start_epoch=epoch,
        )
        dataset = WindowExamples(chosen, self.size, run_seed())
        pinned = self.loader_options["pin_memory"]
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=_as_is, pin_memory=pinned)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the numbers of this rank's evaluation games, all in one batch.

        Returns:
            The loader.

        Raises:
            ValueError: If there are fewer games than ranks.
        """
        world_size = ranks(self.trainer)[1]
        if self.eval_games < world_size:
            raise ValueError(
                f"eval_games must be at least 1 per device, got {self.eval_games} for {world_size}"
            )
        numbers: Any = evaluation_indices(self.eval_games, self.trainer)
        return DataLoader(numbers, batch_size=len(numbers))

    def _given_generations(self) -> list[Generation]:
        """Read the checkpoint's games of the newest generations."""
        with stage("reading the given games"):
            return [
                make_generation(model, [read_game(path, self.size) for path in games])
                for model, games in self._files.newest(self.window).items()
            ]

    def begin_generation(self) -> None:
        """Play the next generation's games in the background with the current network."""
        assert self.playing is not None, "the module sets the network in setup()"
        if self._players is None:
            self._players = self._make_players()
        share = -(-self.games_per_generation // ranks(self.trainer)[1])
        self._players.begin(self.playing(), share)

    def _make_players(self) -> Players:
        """Create this rank's workers, with the running games of a resumed run."""
        rank, world_size = ranks(self.trainer)
        players = Players(self._new_workers(), ahead=self.play_ahead * self.overlap)
        shape = world_size, self.workers, self.games_at_once
        if self._resumed and shape == players_shape(self._resumed):
            players.restore(self._resumed[rank])
        self._resumed = []
        return players

    def _new_workers(self) -> list[SelfPlay]:
        """Create workers at the start of their first games."""
        rank, _ = ranks(self.trainer)
        epoch, _ = resume_position(self.trainer)
        return [
            SelfPlay(
                self.size, self.komi, self.games_at_once, self.rules,
                seed=_seed(SELFPLAY_STREAM, run_seed(), epoch, rank, worker),
                virtual_losses=self.virtual_losses, benson=self.benson,
            )
            for worker in range(self.workers)
        ]  # fmt: skip

    def _collect(self, model: int) -> None:
        """Add the games of all ranks to the window, once each has finished its share."""
        if self._players is None or not self._players.playing:
            self.begin_generation()
        assert self._players is not None
        shares = gather_from_all_ranks(self._players.collect)
        # The surplus was played with the model before, so it belongs to that generation.
        surplus = [game for share in shares for game in share[0]]
        games = [game for share in shares for game in share[1]]
        self._generations[-1] = extend_generation(self._generations[-1], surplus)
        self._generations = [*self._generations, make_generation(model, games)][-self.window :]

    def teardown(self, stage: str) -> None:
        """Stop the background's games at the end of a run."""
        self._stop()

    def on_exception(self, exception: BaseException) -> None:
        """Stop the background's games when a run fails or is interrupted."""
        self._stop()

    def _stop(self) -> None:
        if self._players is not None:
            self._players.stop()
            self._players = None

    # Log, warm-up, checkpoint.

    def mllog_facts(self) -> dict[str, object]:
        """Return the log's keys about games that hold for the whole run."""
        return {
            "train_batch_size": self.global_batch_size,
            "min_selfplay_games_per_generation": self.games_per_generation,
            "window_size": self.window,
            "num_readouts": self.rules.slow_readouts,
            "virtual_losses": self.virtual_losses,
            "filter_amount": self.train_filter,
            "eval_games": self.eval_games,
            "eval_samples": self.eval_games,
        }

    def mllog_epoch_facts(self) -> dict[str, object]:
        """Return the log's keys about the epoch that begins."""
        return {"actual_selfplay_games_per_generation": self._generations[-1].games}

    def state_dict(self) -> dict[str, Any]:
        """Return the games of the window, and the running games of all ranks."""
        window = [pack_generation(g) for g in self._generations]
        players = self._players
        states = [] if players is None else gather_from_all_ranks(players.state)
        return {"window": window, "players": [pack_players(state) for state in states]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the games of an earlier run.

        With another number of ranks, workers or games at once, the running games start anew.

        Args:
            state_dict: Result of ``state_dict``.
        """
        self._generations = [unpack_generation(g) for g in state_dict["window"]]
        self._resumed = [unpack_players(state) for state in state_dict["players"]]


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def _as_is(batch: Any) -> Any:
    return batch
