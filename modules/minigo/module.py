"""Mini Go: how MLPerf Training v1.0 trains its network and what it measures.

Shapes: B positions, n points per side, A = n*n + 1 actions. A training batch is a dict: ``planes``
(B, 13, n, n) uint8, ``pi`` (B, A) float32 and ``outcome`` (B,) float32. An evaluation batch is a
tensor of game numbers. This module's network plays the data module's games (``playing``).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import Metric

from datamodules.selfplay.go.board import MAX_PLIES
from datamodules.selfplay.go.games import MatchGame, MatchRules, Network, compile_search, play_match
from datamodules.selfplay.go.picture import draw_board
from datamodules.selfplay.go.sgf import clearest_win, game_text, result_text
from datamodules.selfplay.go.sgf_reader import Position, in_words
from modules.common.base import BenchmarkModule, scheduled
from modules.common.check_net import check_net
from modules.common.tensor_bundle import TensorBundle
from modules.minigo.checkpoint import load_bundle
from modules.minigo.inference import GraphedNets, network_of
from modules.minigo.net import PLANES, DualNet
from modules.minigo.predict import Proposal, propose

COLOURS = ("black", "white")


class Batch(TypedDict):
    """Examples of a training step."""

    planes: Tensor
    pi: Tensor
    outcome: Tensor


class WinRate(Metric):
    """Share of games that the candidate has won, from counts per colour."""

    full_state_update = False
    won: Tensor
    played: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("won", "played"):
            self.add_state(state, torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, colour: int, won: bool) -> None:
        """Add a game; ``colour`` is 0 if the candidate had Black, 1 if White."""
        self.played[colour] += 1
        self.won[colour] += won

    def compute(self) -> dict[str, Tensor]:
        """Return rates over all ranks, float64 scalars on the CPU in [0, 1]; NaN without games."""
        won, played = self.won.cpu().double(), self.played.cpu().double()
        rates = {f"win_rate_{name}": won[i] / played[i] for i, name in enumerate(COLOURS)}
        return {"win_rate": won.sum() / played.sum(), **rates}


class MiniGoModule(BenchmarkModule):
    """Train the dual network on its own games; the defaults are the closed reference.

    Args:
        net: Builds the network: (B, 13, n, n) in, policy logits (B, A) and values (B,) out.
        size: Points per side, 5 to 19; the data module's must be the same.
        komi: Points that White gets.
        lr_boundaries: Global step up to which each rate but the last holds, inclusive.
        lr_rates: Learning rates, one more than boundaries.
        momentum: Momentum of SGD.
        weight_decay: L2 penalty of kernels and normalisation gains; biases have none.
        value_weight: Weight of the value's squared error.
        eval_readouts: Searches per move of an evaluation game.
        eval_virtual_losses: Leaves of one game in a batch of the network.
        pass_alive_plies: Moves after which a game ends once nothing is left to play for.
        max_plies: Moves after which an evaluation game is scored as it is, at most 2048.
        benson: Pass-alive by Benson's own rule.
        bfloat16_play: Let the network play its training games in bfloat16; evaluation games are
            always in single precision.
        cuda_graph_play: Play all games through CUDA graphs of a few batch sizes, captured in the
            warm-up; on a CPU batches have these sizes and nothing is captured.

    Raises:
        ValueError: If rates and boundaries do not match, there would be no search, games are too
            long or the network is for another board.

    Source:
        mlcommons/training @ 9947bdf2, reinforcement/tensorflow/minigo (ml_perf/flags/19).
    """

    metric_names: ClassVar[tuple[str, ...]] = ("win_rate", "win_rate_black", "win_rate_white")
    metric_words: ClassVar[Mapping[str, str]] = {
        "win_rate": "share of games won against the target"
    }
    stops_at_weights: ClassVar[bool] = True
    """The rules allow the match after the clock; run_stop is when its weights were ready."""

    def __init__(
        self,
        *,
        net: Callable[[], nn.Module] = DualNet,
        size: int = 19,
        komi: float = 7.5,
        lr_boundaries: Sequence[int] = (128, 10_000, 20_000),
        lr_rates: Sequence[float] = (0.016, 0.16, 0.016, 0.0016),
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        value_weight: float = 0.5,
        eval_readouts: int = 100,
        eval_virtual_losses: int = 4,
        pass_alive_plies: int = 133,
        max_plies: int = 1444,
        benson: bool = False,
        bfloat16_play: bool = False,
        cuda_graph_play: bool = False,
    ) -> None:
        super().__init__()
        problems = []
        if len(lr_rates) != len(lr_boundaries) + 1:
            problems.append(
                f"lr_rates must be one more than lr_boundaries, got {len(lr_rates)} and "
                f"{len(lr_boundaries)}"
            )
        if eval_readouts < 1 or eval_virtual_losses < 1:
            problems.append(
                f"eval_readouts and eval_virtual_losses must be at least 1, got {eval_readouts} "
                f"and {eval_virtual_losses}"
            )
        if not 1 <= max_plies <= MAX_PLIES:
            problems.append(f"max_plies must be 1 to {MAX_PLIES}, got {max_plies}")
        if problems:
            raise ValueError("\n".join(problems))
        self.net, self.target_net = net(), DualNetHolder()
        if isinstance(self.net, DualNet) and self.net.size != size:
            raise ValueError(f"model.net.size is {self.net.size} but model.size is {size}")
        self.size, self.komi = size, komi
        self.lr_boundaries, self.lr_rates = tuple(lr_boundaries), tuple(lr_rates)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.value_weight = value_weight
        self.match_rules = MatchRules(
            eval_readouts, eval_virtual_losses, pass_alive_plies, max_plies, benson
        )
        self.play_dtype = torch.bfloat16 if bfloat16_play else torch.float32
        self.cuda_graph_play = cuda_graph_play
        self._graphed: dict[str, GraphedNets] = {}
        self._batches: dict[str, dict[str, int]] = {}
        self.start_step = 0
        self.wins = WinRate()
        self._momentum: dict[str, Tensor] = {}
        self._games: list[MatchGame] = []

    # Starting weights, and the link to the data.

    def setup(self, stage: str) -> None:
        """Load the starting checkpoint and the target, and give the data module this network."""
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(datamodule, "playing"):
            return  # no data module, or one that only replays batches
        if datamodule.size != self.size:
            raise ValueError(f"data.size is {datamodule.size} but model.size is {self.size}")
        compile_search()  # before the clock starts; instant once it is cached
        self.attach_policy(datamodule)
        target = reference_net(datamodule.target)
        if target.size != self.size:
            raise ValueError(
                f"{datamodule.target}: its board is {target.size} x {target.size} but model.size "
                f"is {self.size}"
            )
        load_bundle(target, datamodule.target)
        self.target_net.set(target)
        if isinstance(self.net, DualNet) and not self.own_weights:
            momentum, self.start_step = load_bundle(self.net, datamodule.checkpoint)
            self._momentum = momentum

    def attach_policy(self, datamodule: Any) -> None:
        """Give the self-play data module this module's network."""
        ranks = 1 if self._trainer is None else self.trainer.world_size
        games = -(-datamodule.eval_games // ranks)
        match = {"largest": games * self.match_rules.virtual_losses, "copies": 1}
        leaves = datamodule.games_at_once * datamodule.virtual_losses
        play = {"largest": leaves, "copies": datamodule.workers}
        self._batches = {"play": play, "candidate": match, "target": match}
        self._graphed = {}
        datamodule.playing = self.playing

    def playing(self) -> Network:
        """Freeze the current network for the search; any thread may call it during training."""
        return self._network("play", self.net, self.play_dtype)

    def _network(self, role: str, net: nn.Module, dtype: torch.dtype = torch.float32) -> Network:
        """Freeze a network for its games in one role."""
        if not (self.cuda_graph_play and self._batches):
            return network_of(net, self.device, dtype)
        if role not in self._graphed:
            shape = (PLANES, self.size, self.size)
            self._graphed[role] = GraphedNets(
                net, self.device, dtype, plane_shape=shape, **self._batches[role]
            )
        return self._graphed[role].network(net)

    def _opponents(self) -> tuple[Network, Network]:
        """Freeze the candidate and the target of a match."""
        return self._network("candidate", self.net), self._network("target", self.target_net.net)

    def warm_up_evaluation(self) -> None:
        """Capture CUDA graphs before the clock starts, on synthetic positions."""
        if self.cuda_graph_play and self._batches:
            self.playing()
            self._opponents()

    def speed_figures(self, datamodule: Any) -> dict[str, float]:
        """Measure self-play for the ``speed`` command; return figures by name."""
        compile_search()
        self.attach_policy(datamodule)
        if isinstance(self.net, DualNet) and not datamodule.synthetic:
            load_bundle(self.net, datamodule.checkpoint)
        return datamodule.speed_figures()

    def begin_speed_evaluation(self, datamodule: Any) -> None:
        """Let a match of ``speed`` end after some moves; its target is an untrained network."""
        compile_search()
        self.attach_policy(datamodule)
        self.target_net.set(deepcopy(self.net))
        self.match_rules = replace(self.match_rules, max_plies=datamodule.speed_plies)

    # Training.

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss without its L2 part, which the optimizer applies; a float32 scalar."""
        logits_BA, value_B = self.net(batch["planes"].float())
        policy = F.cross_entropy(logits_BA.float(), batch["pi"])
        value = F.mse_loss(value_B.float(), batch["outcome"])
        loss = policy + self.value_weight * value
        self.log_loss(loss)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Let the new network play after an epoch's last step, while it is evaluated."""
        if batch_idx + 1 < self.trainer.num_training_batches:
            return
        if self.trainer.world_size > 1:
            # Each rank has its own running statistics; one network must play on all ranks.
            for buffer in self.net.buffers():
                torch.distributed.broadcast(buffer, 0)
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if getattr(datamodule, "overlap", False):
            datamodule.begin_generation()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Make SGD with the momentum of the starting checkpoint."""
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for module in self.net.modules():
            for name, parameter in module.named_parameters(recurse=False):
                (plain if name == "bias" else decayed).append(parameter)
        optimizer = torch.optim.SGD(
            [
                {"params": decayed, "weight_decay": self.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=1.0,
            momentum=self.momentum,
        )
        for name, parameter in self.net.named_parameters():
            if name in self._momentum:
                slot = self._momentum[name].to(parameter.device)
                optimizer.state[parameter]["momentum_buffer"] = slot
        return scheduled(optimizer, self.step_learning_rate)

    def step_learning_rate(self, steps_done: int) -> float:
        """Look up the rate after ``steps_done`` of this run and the starting checkpoint's."""
        step = self.start_step + steps_done
        passed = sum(step > boundary for boundary in self.lr_boundaries)
        return float(self.lr_rates[passed])

    @property
    def peak_learning_rate(self) -> float:
        """Highest of the rates that are left from the starting checkpoint's step on."""
        passed = sum(self.start_step > boundary for boundary in self.lr_boundaries)
        return float(max(self.lr_rates[passed:]))

    # Evaluation.

    def on_validation_epoch_start(self) -> None:
        self.wins.reset()
        self._games = []

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Play a part of the match; the candidate has Black in games of even number."""
        games = play_match(
            *self._opponents(),
            [int(number) for number in batch],
            size=self.size,
            komi=self.komi,
            rules=self.match_rules,
            seed=int(os.environ.get("PL_GLOBAL_SEED", "0")),
        )
        for game in games:
            self.wins.update(game.number % 2, game.won)
        self._games += games

    def on_validation_epoch_end(self) -> None:
        """Log the win rates as ``val/<name>``, equal on every rank."""
        rates = self.wins.compute()
        self.log_dict({f"val/{name}": rate for name, rate in rates.items()}, sync_dist=False)

    def predict_step(self, batch: Mapping[str, Position], batch_idx: int) -> Proposal:
        """Propose a move, searched as in an evaluation game.

        Args:
            batch: ``position``.
            batch_idx: Of a loader; unused.

        Returns:
            The move, and the network's own opinion of the position.
        """
        compile_search()
        rules = self.match_rules
        return propose(
            self.net,
            batch["position"],
            self.device,
            readouts=rules.readouts,
            virtual_losses=rules.virtual_losses,
            benson=rules.benson,
        )

    def draw_prediction(
        self, path: Path, batch: Mapping[str, Position], proposal: Proposal
    ) -> None:
        """Draw the position with a ring at the proposed move.

        Args:
            path: PNG file to write.
            batch: The batch that was predicted.
            proposal: From ``predict_step``.
        """
        position = batch["position"]
        draw_board(
            position.actions(),
            self.size,
            path,
            title=f"Proposed: {in_words(position, proposal.move)}",
            counted=False,
            marked=proposal.move,
        )

    def write_artifacts(self, folder: Path) -> None:
        """Write the clearest win of the last evaluation as ``game.sgf`` and ``board.png``."""
        rules: dict[str, Any] = {"komi": self.komi, "benson": self.match_rules.benson}
        game = clearest_win(self._games, self.size, **rules)
        if game is None:
            return
        players = ("finishline", "target") if game.number % 2 == 0 else ("target", "finishline")
        text = game_text(game.moves, self.size, players=players, outcome=game.outcome, **rules)
        (folder / "game.sgf").write_text(text)
        result = result_text(game.moves, self.size, outcome=game.outcome, **rules)
        winner, loser = players if game.outcome > 0 else players[::-1]
        colours = ("Black", "White") if game.outcome > 0 else ("White", "Black")
        title = (
            f"{colours[0]} ({winner}) beats {colours[1]} ({loser}) by {result[2:]} points, "
            f"komi {self.komi:g}"
        )
        draw_board(game.moves, self.size, folder / "board.png", title=title, benson=rules["benson"])

    def check_net(self) -> None:
        """Check that the network returns a policy over all actions and one value."""
        actions = self.size * self.size + 1
        for number, (what, shape) in enumerate({"policy": (2, actions), "value": (2,)}.items()):
            # Messages call the network by its class's name.
            part = type(f"{type(self.net).__name__} ({what})", (_Part,), {})
            check_net(
                part(self.net, number),
                input_shape=(2, PLANES, self.size, self.size),
                output_shape=shape,
            )

    def mllog_facts(self) -> dict[str, object]:
        """Return hyperparameters under the names of the v1.0 compliance checker."""
        return {
            "lr_boundaries": list(self.lr_boundaries),
            "lr_rates": list(self.lr_rates),
            "opt_weight_decay": self.weight_decay,
            "eval_num_readouts": self.match_rules.readouts,
            "eval_virtual_losses": self.match_rules.virtual_losses,
        }


class DualNetHolder(nn.Module):
    """Keeps the target, which is never trained, out of the parameters and checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[nn.Module] = []

    def set(self, net: nn.Module) -> None:
        self._kept = [net.requires_grad_(False)]

    @property
    def net(self) -> nn.Module:
        return self._kept[0]


class _Part(nn.Module):
    """One of a network's two outputs, for the shape check."""

    def __init__(self, net: nn.Module, number: int) -> None:
        super().__init__()
        self.net, self.number = net, number

    def forward(self, planes: Tensor) -> Tensor:
        outputs = self.net(planes)
        if not isinstance(outputs, tuple) or len(outputs) != 2:
            raise TypeError("it must return a tuple of policy logits and values")
        return outputs[self.number]


def reference_net(prefix: Path) -> DualNet:
    """Build an untrained dual network of the shape that a published checkpoint has."""
    entries = TensorBundle(prefix).entries
    try:
        kernel, hidden = entries["conv2d/kernel"].shape, entries["dense_1/kernel"].shape
    except KeyError as error:
        raise ValueError(f"{prefix}: no tensor {error}; not a checkpoint of Mini Go") from error
    convs = sum(name.startswith("conv2d") and name.endswith("/kernel") for name in entries)
    size = round(hidden[0] ** 0.5)
    return DualNet(size=size, width=kernel[3], blocks=(convs - 3) // 2, fc_width=hidden[1])
