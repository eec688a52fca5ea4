"""Mini Go's data: games of the network under training against itself, one epoch a generation.

The data root is the benchmark's given checkpoint, unpacked (see ``find_files``). The first epoch
trains on the checkpoint's games; before each later one the games of the newest network are played,
inside the clock. The network comes from the module, which sets ``playing`` in its ``setup``.

Facts: mlcommons/training @ 9947bdf2, reinforcement/tensorflow/minigo/ml_perf.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules._cache import build_once, demo_folder
from datamodules._sampling import (
    EpochSampler,
    SampleKey,
    evaluation_indices,
    ranks,
    resume_position,
    run_seed,
)
from datamodules._selfplay_files import find_files
from datamodules.go.features import PLANES, symmetries
from datamodules.go.moves import Rules
from datamodules.go.records import Examples, game_examples, read_game
from datamodules.go.selfplay import Network, SelfPlay, play_together

SELFPLAY_STREAM, WINDOW_STREAM, SYMMETRY_STREAM = 71, 72, 73


class Generation(NamedTuple):
    """Games played by one model."""

    model: int
    examples: Examples
    starts: np.ndarray
    """(games + 1,) int64: examples of game g are ``starts[g]`` to ``starts[g + 1]``."""

    @property
    def games(self) -> int:
        """Number of games."""
        return len(self.starts) - 1


class WindowExamples(Dataset[Any]):
    """The examples chosen for one epoch, each turned by a random symmetry.

    Args:
        examples: All examples of the window.
        chosen: (E,) int64 which of them, in order.
        size: Points per side.
        seed: The run's seed.
    """

    def __init__(self, examples: Examples, chosen: np.ndarray, size: int, seed: int) -> None:
        self.examples, self.chosen, self.size, self.seed = examples, chosen, size, seed
        self._turns = symmetries(size).astype(np.int64)

    def __len__(self) -> int:
        """Number of chosen examples."""
        return len(self.chosen)

    def __getitems__(self, keys: list[SampleKey]) -> dict[str, Tensor]:
        """One batch.

        Args:
            keys: Places in the chosen order; all of one epoch.

        Returns:
            ``planes`` (B, 13, n, n) uint8, ``pi`` (B, A) float32 and ``outcome`` (B,) float32.
        """
        places = np.array([key.index for key in keys])
        rows = self.chosen[places]
        drawn = np.random.default_rng([SYMMETRY_STREAM, self.seed, keys[0].epoch])
        turn_BA = self._turns[drawn.integers(8, size=len(self.chosen))[places]]
        planes = np.take_along_axis(self.examples.planes[rows], turn_BA[:, None, :-1], axis=2)
        return {
            "planes": torch.from_numpy(planes.reshape(-1, PLANES, self.size, self.size)),
            "pi": torch.from_numpy(np.take_along_axis(self.examples.pi[rows], turn_BA, axis=1)),
            "outcome": torch.from_numpy(self.examples.outcome[rows]),
        }


class SelfPlayDataModule(L.LightningDataModule):
    """Plays games with the module's network and trains on those of the newest generations."""

    def __init__(
        self,
        *,
        root: Path | None = None,
        batch_size: int = 4096,
        size: int = 19,
        komi: float = 7.5,
        games_per_generation: int = 8192,
        window: int = 5,
        train_filter: float = 0.3,
        eval_games: int = 256,
        games_at_once: int = 256,
        workers: int = 1,
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
    ) -> None:
        """Defaults are the closed reference on one device.

        Args:
            root: Folder with the given checkpoint and target. None generates the demo's.
            batch_size: Examples per device and step.
            size: Points per side, 5 to 19.
            komi: Points that White gets.
            games_per_generation: Games per generation, over all devices, that train a model.
            window: Newest generations that an epoch trains on.
            train_filter: Probability of an example to be kept, in (0, 1].
            eval_games: Games of an evaluation, half with each colour.
            games_at_once: Running games per worker; their leaves make one batch of the network.
            workers: Threads per device that play.
            virtual_losses: Leaves of one game in a batch of the network.
            slow_readouts: Searches of a move that makes an example.
            fast_readouts: Searches of any other move.
            fast_share: Probability of a move to be such a one.
            noise_alpha: Dirichlet concentration of the noise at the root.
            noise_mix: Share of the noise in the priors.
            soft_plies: First moves of a game that are drawn in proportion to visits.
            pass_alive_plies: Moves from which on a game ends when nothing is left to play for.
            resign_threshold: Range of the value, for the player to move, below which it resigns;
                below -1 nobody does.
            max_plies: Moves after which a game is scored as it stands.

        Raises:
            ValueError: If a number lies outside its range; one line each.
        """
        super().__init__()
        problems = [
            f"{name} must be {rule}, got {value}"
            for name, value, rule, good in (
                ("size", size, "5 to 19", 5 <= size <= 19),
                ("batch_size", batch_size, "at least 1", batch_size >= 1),
                ("games_per_generation", games_per_generation, ">= 1", games_per_generation >= 1),
                ("window", window, "at least 1", window >= 1),
                ("train_filter", train_filter, "in (0, 1]", 0 < train_filter <= 1),
                ("eval_games", eval_games, "even, at least 2", eval_games % 2 == 0 < eval_games),
                ("games_at_once", games_at_once, "at least 1", games_at_once >= 1),
                ("workers", workers, "at least 1", workers >= 1),
                ("virtual_losses", virtual_losses, "at least 1", virtual_losses >= 1),
                ("slow_readouts", slow_readouts, "at least 1", slow_readouts >= 1),
                ("fast_readouts", fast_readouts, "at least 1", fast_readouts >= 1),
            )
            if not good
        ]
        if problems:
            raise ValueError("\n".join(problems))
        self.demo = root is None
        self.root = None if root is None else Path(root)
        self.batch_size, self.size, self.komi = batch_size, size, komi
        self.games_per_generation, self.window = games_per_generation, window
        self.train_filter, self.eval_games = train_filter, eval_games
        self.games_at_once, self.workers = games_at_once, workers
        self.virtual_losses = virtual_losses
        self.rules = Rules(
            slow_readouts=slow_readouts, fast_readouts=fast_readouts, fast_share=fast_share,
            noise_alpha=noise_alpha, noise_mix=noise_mix, soft_plies=soft_plies,
            pass_alive_plies=pass_alive_plies, resign_low=resign_threshold[0],
            resign_high=resign_threshold[1], max_plies=max_plies,
        )  # fmt: skip
        self.playing: Callable[[], AbstractContextManager[Network]] | None = None
        self._generations: list[Generation] = []
        self._players: list[SelfPlay] = []
        self._steps = 0

    # Files.

    @property
    def checkpoint(self) -> Path:
        """Prefix of the given training checkpoint."""
        return find_files(self._source).checkpoint

    @property
    def target(self) -> Path:
        """Prefix of the target's checkpoint."""
        return find_files(self._source).target

    @property
    def _source(self) -> Path:
        from datamodules.demo.selfplay import VERSION, demo_parameters

        return self.root or demo_folder("minigo", VERSION, demo_parameters(self))

    def prepare_data(self) -> None:
        """Make the demo's files, or check that the real ones are there.

        Raises:
            FileNotFoundError: If the root lacks a file.
            ValueError: One line per problem.
        """
        if self.demo:
            from datamodules.demo.selfplay import write_demo

            build_once(self._source, lambda folder: write_demo(folder, self))
        if lines := self.problems():
            raise FileNotFoundError("\n".join(lines))

    def prepare(self) -> None:
        """The same, with a verdict.

        Raises:
            FileNotFoundError: If the root lacks a file.
        """
        self.prepare_data()
        files = find_files(self._source)
        counts = ", ".join(f"{model}: {len(games)}" for model, games in files.games.items())
        print(f"Mini Go is ready in {self._source}: games per model {counts}")

    def problems(self) -> list[str]:
        """What keeps this root from being used.

        Returns:
            One line per problem: what, where, what to do; empty when all is well.
        """
        if self.root is not None and not self.root.is_dir():
            return [f"data.root {self.root}: no such folder"]
        try:
            files = find_files(self._source)
        except FileNotFoundError as error:
            return str(error).splitlines()
        few = {m: len(g) for m, g in files.games.items() if len(g) < self.games_per_generation}
        return [
            f"{self._source}: model {model} has {count} games but a generation needs "
            f"{self.games_per_generation} (data.games_per_generation); fetch the checkpoint again"
            for model, count in few.items()
        ]

    # Games.

    @property
    def samples_per_epoch(self) -> int:
        """Examples of the epoch in progress: whole global batches; 0 before the first."""
        return self._steps * self._global_batch_size

    @property
    def _global_batch_size(self) -> int:
        accumulation = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        return self.batch_size * ranks(self.trainer)[1] * accumulation

    def train_dataloader(self) -> DataLoader[Any]:
        """Play the next generation's games, if there are not enough yet, and choose examples.

        Called before every epoch (``reload_dataloaders_every_n_epochs`` is 1).

        Returns:
            The loader of this rank for the epoch that comes.

        Raises:
            ValueError: If there are too few games or examples, or no call would follow.
        """
        if self.trainer is not None and self.trainer.reload_dataloaders_every_n_epochs != 1:  # type: ignore[attr-defined]
            raise ValueError(
                "trainer.reload_dataloaders_every_n_epochs must be 1: every epoch has its own games"
            )
        epoch, done = resume_position(self.trainer)
        if not self._generations:
            self._generations = self._given_generations()
        first = self._first_model
        if epoch and self._generations[-1].model < first + epoch:
            self._generations.append(self._play(first + epoch, epoch))
        self._generations = self._generations[-self.window :]
        examples, chosen = self._choose(epoch)
        self._steps = len(chosen) // self._global_batch_size
        if not self._steps:
            raise ValueError(
                f"generation {epoch}: {len(chosen)} examples are fewer than one batch of "
                f"{self._global_batch_size}; more games per generation or a smaller batch"
            )
        rank, world_size = ranks(self.trainer)
        sampler = EpochSampler(
            self.samples_per_epoch,
            self._global_batch_size,
            rank,
            world_size,
            self.batch_size,
            run_seed(),
            shuffle=False,  # the choice is in random order already
            start_batch=done,
            start_epoch=epoch,
        )
        chosen = chosen[: self.samples_per_epoch]
        dataset = WindowExamples(examples, chosen, self.size, run_seed())
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=_as_is)

    def val_dataloader(self) -> DataLoader[Any]:
        """Numbers of this rank's evaluation games, all in one batch.

        Returns:
            The loader.
        """
        numbers: Any = evaluation_indices(self.eval_games, self.trainer)
        return DataLoader(numbers, batch_size=max(1, len(numbers)))

    @property
    def _first_model(self) -> int:
        """Number of the newest model that the given games are from."""
        return max(find_files(self._source).games)

    def _given_generations(self) -> list[Generation]:
        """The checkpoint's games, newest generations only."""
        games = find_files(self._source).games
        return [
            _generation(model, [read_game(path, self.size) for path in games[model]])
            for model in sorted(games)[-self.window :]
        ]

    def _play(self, model: int, epoch: int) -> Generation:
        """Play until all ranks together have finished a generation; running games go on later."""
        assert self.playing is not None, "the module lends its network in setup()"
        rank, world_size = ranks(self.trainer)
        if not self._players:
            self._players = [
                SelfPlay(
                    self.size, self.komi, self.games_at_once, self.rules,
                    seed=_seed(SELFPLAY_STREAM, run_seed(), epoch, rank, worker),
                    virtual_losses=self.virtual_losses,
                )
                for worker in range(self.workers)
            ]  # fmt: skip
        share = -(-self.games_per_generation // world_size)
        with self.playing() as network:
            games = play_together(self._players, network, share)
        return _generation(model, _gather([game_examples([g], self.size) for g in games]))

    def _choose(self, epoch: int) -> tuple[Examples, np.ndarray]:
        """All examples of the window, and which of them to train on, in random order."""
        rng = np.random.default_rng([WINDOW_STREAM, run_seed(), epoch])
        parts, offset = [], 0
        for generation in self._generations:
            if generation.games < self.games_per_generation:
                raise ValueError(
                    f"model {generation.model} has {generation.games} games but a generation "
                    f"needs {self.games_per_generation} (data.games_per_generation)"
                )
            picked = rng.permutation(generation.games)[: self.games_per_generation]
            starts = generation.starts
            parts += [np.arange(starts[g], starts[g + 1]) + offset for g in picked]
            offset += int(starts[-1])
        rows = np.concatenate(parts)
        rows = rows[rng.random(len(rows)) < self.train_filter]
        joined = _join([generation.examples for generation in self._generations])
        return joined, rng.permutation(rows)

    # The log, the warm-up, the checkpoint.

    def mllog_facts(self) -> dict[str, object]:
        """The log's keys about games, from the arguments and the first window.

        Returns:
            Values by key.
        """
        return {
            "train_batch_size": self._global_batch_size,
            "min_selfplay_games_per_generation": self.games_per_generation,
            "actual_selfplay_games_per_generation": min(
                (generation.games for generation in self._generations),
                default=self.games_per_generation,
            ),
            "window_size": self.window,
            "num_readouts": self.rules.slow_readouts,
            "virtual_losses": self.virtual_losses,
            "filter_amount": self.train_filter,
            "eval_games": self.eval_games,
        }

    def synthetic_batch(self) -> dict[str, Tensor]:
        """A random training batch on the CPU, for warm-up and speed tests.

        Returns:
            A batch with the keys, shapes and types of a training batch.
        """
        shape = (self.batch_size, PLANES, self.size, self.size)
        actions = self.size * self.size + 1
        return {
            "planes": torch.randint(0, 2, shape, dtype=torch.uint8),
            "pi": torch.softmax(torch.randn(self.batch_size, actions), dim=1),
            "outcome": torch.randint(0, 2, (self.batch_size,)).float() * 2 - 1,
        }

    def state_dict(self) -> dict[str, Any]:
        """Games of the window, so that a resumed run has them. Running games are begun anew."""
        return {
            "generations": [
                {
                    "model": g.model,
                    "planes": torch.from_numpy(np.packbits(g.examples.planes, axis=-1)),
                    "pi": torch.from_numpy(g.examples.pi),
                    "outcome": torch.from_numpy(g.examples.outcome),
                    "starts": torch.from_numpy(g.starts),
                }
                for g in self._generations
            ]
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the games of an earlier run.

        Args:
            state_dict: What ``state_dict`` gave.
        """
        points = self.size * self.size
        self._generations = [
            Generation(
                int(g["model"]),
                Examples(
                    np.unpackbits(g["planes"].numpy(), axis=-1, count=points),
                    g["pi"].numpy(),
                    g["outcome"].numpy(),
                ),
                g["starts"].numpy(),
            )
            for g in state_dict["generations"]
        ]


def _generation(model: int, games: list[Examples]) -> Generation:
    """Games of one model, joined."""
    starts = np.cumsum([0, *(len(game.outcome) for game in games)]).astype(np.int64)
    return Generation(model, _join(games), starts)


def _join(parts: list[Examples]) -> Examples:
    """Examples behind one another."""
    return Examples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _gather(games: list[Examples]) -> list[Examples]:
    """The games of all ranks, in rank order, on every rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return games
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, games)
    return [game for part in parts for game in part]


def _seed(*words: int) -> int:
    """One seed from several numbers."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def _as_is(batch: Any) -> Any:
    """The dataset gives whole batches."""
    return batch
