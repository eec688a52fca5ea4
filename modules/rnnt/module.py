"""RNN-T on LibriSpeech: how MLPerf Training v1.0 trains it and what it measures.

Shapes: B batch, N audio samples, U labels. A batch is a dict: ``audio`` (B, N) int16 at 16 kHz,
``audio_lengths`` (B,), ``labels`` (B, U), ``label_lengths`` (B,), ``seed`` (B,) and ``index``
(B,), all int64. A sample's speed, masks and dither depend only on its seed, not on the batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from modules.common.base import BenchmarkModule, scheduled
from modules.common.check_net import dry_run
from modules.common.float64 import has_float64
from modules.common.lamb import Lamb
from modules.common.schedules import warmup_hold_decay
from modules.rnnt.audio_features import LogMel, full_float32, splice_frames
from modules.rnnt.ema import averaged_copy, update_average
from modules.rnnt.greedy_decoding import greedy_decode
from modules.rnnt.net import RNNT
from modules.rnnt.sample_noise import uniform_numbers
from modules.rnnt.spec_augment import spec_augment
from modules.rnnt.speed_perturbation import change_speed
from modules.rnnt.transducer import transducer_loss
from modules.rnnt.word_errors import WordErrorRate, word_errors

NUM_FILTERS, SPLICED = 80, 3
SPEED_STREAM = 201
TAIL = 8  # frames of zeros after the longest evaluation utterance
HYPOTHESES = "hypotheses.tsv"


class Batch(TypedDict):
    """Utterances of a training or evaluation step, padded to the longest."""

    audio: Tensor
    audio_lengths: Tensor
    labels: Tensor
    label_lengths: Tensor
    seed: Tensor
    index: Tensor


class RNNTModule(BenchmarkModule):
    """Train a transducer to transcribe speech; the defaults are the closed reference.

    Args:
        net: Builds the network: a ``modules.rnnt.transducer.Transducer`` for 240 features.
        learning_rate: LAMB's rate on the plateau.
        warmup_epochs: Epochs of linear warm-up, per step.
        hold_epochs: Epochs of the plateau.
        decay_factor: Multiplies the rate in every epoch after that.
        min_learning_rate: Lower bound of the rate in every step.
        beta1: Decay of LAMB's first moment.
        beta2: Decay of LAMB's second moment.
        epsilon: LAMB's epsilon.
        weight_decay: Decoupled weight decay, on every tensor.
        gradient_clip_norm: Maximum global norm of the gradients; ``inf`` disables clipping.
        ema_factor: Decay per step of the averaged weights, which are the ones evaluated.
        speed_range: Smallest and largest factor of the speed perturbation.
        num_freq_masks: SpecAugment frequency masks per utterance.
        max_freq_width: Widest frequency mask, in mel filters.
        num_time_masks: SpecAugment time masks per utterance.
        max_time_share: Longest time mask, as a fraction of the utterance.
        max_symbols: Labels per utterance after which decoding starts no new frame.
        max_joint_nodes: Lattice nodes in the joint at a time; affects only time and memory.

    Source:
        mlcommons/training @ 9947bdf2, rnn_speech_recognition/pytorch/train.py.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("word_error_rate",)
    metric_words: ClassVar[Mapping[str, str]] = {"word_error_rate": "word error rate"}
    compiled_calls: ClassVar[tuple[str, ...]] = ("encode", "predict", "join")

    def __init__(
        self,
        *,
        net: Callable[[], nn.Module] = RNNT,
        learning_rate: float = 0.004,
        warmup_epochs: int = 6,
        hold_epochs: int = 40,
        decay_factor: float = 0.935,
        min_learning_rate: float = 1e-5,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-9,
        weight_decay: float = 1e-3,
        gradient_clip_norm: float = 1.0,
        ema_factor: float = 0.999,
        speed_range: tuple[float, float] = (0.85, 1.15),
        num_freq_masks: int = 2,
        max_freq_width: int = 20,
        num_time_masks: int = 10,
        max_time_share: float = 0.03,
        max_symbols: int = 300,
        max_joint_nodes: int = 2**18,
    ) -> None:
        super().__init__()
        self.net: Any = net()
        self.average: Any = averaged_copy(self.net)
        self.features = LogMel(NUM_FILTERS)
        self.learning_rate, self.min_learning_rate = learning_rate, min_learning_rate
        self.warmup_epochs, self.hold_epochs = warmup_epochs, hold_epochs
        self.decay_factor = decay_factor
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.weight_decay, self.gradient_clip_norm = weight_decay, gradient_clip_norm
        self.ema_factor = ema_factor
        self.speed_range = tuple(speed_range)
        self.masks: dict[str, Any] = {
            "num_freq_masks": num_freq_masks,
            "max_freq_width": max_freq_width,
            "num_time_masks": num_time_masks,
            "max_time_share": max_time_share,
        }
        self.max_symbols, self.max_joint_nodes = max_symbols, max_joint_nodes
        self.errors = WordErrorRate()
        self.transcripts: list[tuple[int, str, str]] = []  # index, hypothesis, reference

    def setup(self, stage: str) -> None:
        """Check precision, strategy and vocabulary against what the network supports."""
        precision = str(getattr(self.trainer, "precision", ""))
        if precision.endswith("16-true"):
            raise ValueError(
                f"--trainer.precision {precision}: features, loss and the average of the weights "
                f"need float32; use {precision.replace('true', 'mixed')}"
            )
        # The loss computes the joint's gradients itself; shards would never receive them.
        if isinstance(
            getattr(self.trainer, "strategy", None), FSDPStrategy | ModelParallelStrategy
        ):
            raise ValueError(
                "--trainer.strategy: a transducer cannot be sharded, its loss computes gradients "
                "of whole tensors; use ddp, the reference's 49 million parameters fit any device"
            )
        pieces = getattr(getattr(self.trainer, "datamodule", None), "vocab_size", None)
        if pieces is not None and pieces != self.net.num_labels:
            raise ValueError(
                f"data.vocab_size is {pieces} but the net has {self.net.num_labels} labels "
                "(model.net.num_labels); they must be equal"
            )

    def start_from(self, path: Path | str) -> None:
        """Start the average from the file's weights too."""
        super().start_from(path)
        self.average = averaged_copy(self.net)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        features, lengths = self.extract_features(batch, augment=True)
        encoded, frames = self.net.encode(features, lengths)
        predicted, _ = self.net.predict(batch["labels"], start=True)
        loss = transducer_loss(
            self.net,
            encoded,
            frames,
            predicted,
            batch["labels"],
            batch["label_lengths"],
            max_nodes=self.max_joint_nodes,
        )
        self.log_loss(loss)
        return loss

    def extract_features(self, batch: Batch, *, augment: bool) -> tuple[Tensor, Tensor]:
        """Compute the encoder's input features, in float32 regardless of precision.

        Args:
            batch: Utterances.
            augment: Perturb the speed and apply SpecAugment; dither and trimming always apply.

        Returns:
            features (B, S, 240) and the int64 number of spliced frames of each utterance.
        """
        device = batch["audio"].device
        if has_float64(device):
            return self._features(batch, augment)
        self.features.cpu()
        on_cpu = {key: batch[key].cpu() for key in ("audio", "audio_lengths", "seed")}  # type: ignore[literal-required]
        features, lengths = self._features(on_cpu, augment)
        return features.to(device), lengths.to(device)

    def _features(self, batch: Mapping[str, Any], augment: bool) -> tuple[Tensor, Tensor]:
        """Compute ``extract_features`` on the batch's device, which needs float64."""
        audio, lengths, seed = batch["audio"], batch["audio_lengths"], batch["seed"]
        with full_float32(audio.device):
            waves = audio.float() / 32768
            if augment:
                low, high = self.speed_range
                draw = uniform_numbers(seed, 1, stream=SPEED_STREAM)[:, 0]
                waves, lengths = change_speed(waves, lengths, low + (high - low) * draw)
            features, lengths = self.features(waves, lengths, seed)
            if augment:
                features = spec_augment(features, lengths, seed, **self.masks)
            return splice_frames(features, lengths, frames=SPLICED)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step the optimizer, then update the averaged weights."""
        super().optimizer_step(*args, **kwargs)
        update_average(self.average, self.net, factor=self.ema_factor)

    def on_validation_epoch_start(self) -> None:
        self.transcripts = []
        # A rank without utterances must still gather.
        self.errors.update(torch.empty(0, 3, dtype=torch.int64, device=self.device))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Transcribe with the averaged weights and count word errors."""
        decoded = self._transcribe(batch)
        decode = self.trainer.datamodule.decode  # type: ignore[attr-defined]
        rows = []
        # Lists, as reading single entries of a tensor would each wait for the device.
        columns = (batch[key].tolist() for key in ("index", "labels", "label_lengths"))
        for output, index, labels, count in zip(decoded, *columns, strict=True):
            hypothesis, reference = decode(output), decode(labels[:count])
            rows.append([index, *word_errors(hypothesis, reference)])
            self.transcripts.append((index, hypothesis, reference))
        self.errors.update(torch.tensor(rows, device=self.device))

    def _transcribe(self, batch: Batch) -> list[list[int]]:
        """Return each utterance's label ids, by the averaged weights."""
        self.average.eval()  # Lightning's switch back to training covers every submodule
        features, lengths = self.extract_features(batch, augment=False)
        # The net stacks frames, so it reads past an odd end. It must read zeros there after the
        # longest utterance too, or the result would depend on batch size and ranks.
        features = nn.functional.pad(features, (0, 0, 0, TAIL))
        encoded, frames = self.average.encode(features, lengths)
        return greedy_decode(self.average, encoded, frames, max_symbols=self.max_symbols)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[int]:
        """Transcribe one recording as in an evaluation.

        Args:
            batch: One recording; only ``audio``, ``audio_lengths`` and ``seed`` are used.
            batch_idx: Of a loader; unused.

        Returns:
            Its label ids.
        """
        return self._transcribe(batch)[0]

    def write_artifacts(self, folder: Path) -> None:
        """Write ``hypotheses.tsv``: this rank's utterances of the last evaluation.

        Args:
            folder: The run's directory.
        """
        if self.transcripts:
            self._write_table(folder / HYPOTHESES, self.transcripts)

    def on_validation_epoch_end(self) -> None:
        """Log the word error rate; in ``validate`` also write the transcripts."""
        rate = self.errors.compute()
        self.errors.reset()
        self.log("val/word_error_rate", rate, sync_dist=False)
        if self.trainer.state.fn == "validate" and self.trainer.ckpt_path:
            checkpoint = Path(self.trainer.ckpt_path)
            run_folder = checkpoint.parent.parent
            in_a_run = (run_folder / "config.yaml").is_file()
            self.write_hypotheses((run_folder if in_a_run else checkpoint.parent) / HYPOTHESES)

    def write_hypotheses(self, path: Path) -> None:
        """Write each hypothesis of the last evaluation next to its reference, tab-separated."""
        gathered: list[Any] = [None] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(gathered, self.transcripts)
        else:
            gathered = [self.transcripts]
        if self.trainer.is_global_zero:
            self._write_table(path, [row for rows in gathered for row in rows])
            rank_zero_info(f"Transcripts written to {path}")

    def _write_table(self, path: Path, transcripts: Sequence[tuple[int, str, str]]) -> None:
        name = getattr(getattr(self.trainer, "datamodule", None), "utterance_name", str)
        lines = ["utterance\terrors\treference\thypothesis"]
        for index, hypothesis, reference in sorted(set(transcripts)):
            errors, _ = word_errors(hypothesis, reference)
            lines.append(f"{name(index)}\t{errors}\t{reference}\t{hypothesis}")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build LAMB on every tensor, its rate set before each step."""
        clip = self.gradient_clip_norm
        optimizer = Lamb(
            self.net.parameters(),
            lr=1.0,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            weight_decay=self.weight_decay,
            max_grad_norm=None if math.isinf(clip) else clip,
        )
        return scheduled(optimizer, self.step_learning_rate)

    def step_learning_rate(self, steps_done: int) -> float:
        """Return the rate of the next step; the reference counts the first as step 1."""
        return warmup_hold_decay(
            steps_done + 1,
            steps_per_epoch=self.steps_per_epoch,
            learning_rate=self.learning_rate,
            warmup_epochs=self.warmup_epochs,
            hold_epochs=self.hold_epochs,
            decay_factor=self.decay_factor,
            min_learning_rate=self.min_learning_rate,
        )

    def check_net(self) -> None:
        """Raise a ValueError unless the net follows ``modules.rnnt.transducer.Transducer``."""
        missing = [
            name
            for name in ("num_labels", "encode", "predict", "join")
            if not hasattr(self.net, name)
        ]
        if missing:
            raise ValueError(
                f"{type(self.net).__name__} has no {', '.join(missing)}; "
                "see modules.rnnt.transducer.Transducer for what a network needs"
            )
        for training in (False, True):
            self._try_net(training)

    def _try_net(self, training: bool) -> None:
        """Run the network on a batch that is padded past its longest utterance, and decode it."""
        B, U, S, features = 2, 2, 4 + TAIL, NUM_FILTERS * SPLICED
        name, outputs = type(self.net).__name__, self.net.num_labels + 1
        what = f"{S} frames, of which 4 and 3 are speech, of {features} features and {U} labels"
        mode = " in training" if training else ""
        with dry_run(self.net, f"{name} fails on {what}{mode}"):
            net = self.net.train(training)
            speech = torch.zeros(B, S, features, device=self.device)
            encoded, frames = net.encode(speech, torch.tensor([4, 3], device=self.device))
            labels = torch.zeros(B, U, dtype=torch.int64, device=self.device)
            predicted, _ = net.predict(labels, start=True)
            got = tuple(net.join(encoded[:, :1, None], predicted[:, None]).shape)
        if got != (B, 1, U + 1, outputs):
            raise ValueError(
                f"{name} returned logits of shape {got} for {B} utterances of 1 frame and {U} "
                f"labels{mode}; expected {(B, 1, U + 1, outputs)}, the last output being the blank"
            )
        if frames.shape != (B,) or int(frames.max()) > encoded.shape[1] or int(frames.min()) < 1:
            raise ValueError(
                f"{name}.encode returned {frames.tolist()} frames of {encoded.shape[1]}{mode}; "
                f"expected {B} whole numbers from 1 to that"
            )
        if not training:
            with dry_run(self.net, f"{name} cannot be decoded label by label"):
                greedy_decode(self.net.eval(), encoded, frames, max_symbols=2)

    def train_flops(self, batch: Batch) -> int:
        """Count a training step's floating-point operations, as torch cannot in LSTMs.

        Matrix products only, without padding: once forward, twice backward. 0 for a foreign net.
        """
        if not isinstance(self.net, RNNT):
            return 0
        input_frames = (1 + batch["audio_lengths"] // 160 + SPLICED - 1) // SPLICED
        frames = (input_frames + self.net.stack - 1) // self.net.stack
        nodes = batch["label_lengths"] + 1
        net = self.net
        uses = (
            (net.pre_rnn, input_frames.sum()),
            (net.post_rnn, frames.sum()),
            (net.joint_enc, frames.sum()),
            (net.dec_rnn, nodes.sum()),
            (net.joint_pred, nodes.sum()),
            (net.joint_net, (frames * nodes).sum()),
        )
        total = sum(
            int(times) * sum(w.numel() for w in part.parameters() if w.dim() == 2)
            for part, times in uses
        )
        return 3 * 2 * total

    def mllog_facts(self) -> dict[str, object]:
        """Return hyperparameters under the names of the v1.0 compliance checker."""
        return {
            "opt_name": "lamb",
            "opt_base_learning_rate": self.learning_rate,
            "opt_lamb_epsilon": self.epsilon,
            "opt_lamb_learning_rate_decay_poly_power": self.decay_factor,
            "opt_lamb_learning_rate_hold_epochs": self.hold_epochs,
            "opt_learning_rate_warmup_epochs": self.warmup_epochs,
            "opt_weight_decay": self.weight_decay,
            "opt_lamb_beta_1": self.beta1,
            "opt_lamb_beta_2": self.beta2,
            "opt_gradient_clip_norm": self.gradient_clip_norm,
            "opt_learning_rate_alt_decay_func": True,
            "opt_learning_rate_alt_warmup_func": True,
            "opt_lamb_learning_rate_min": self.min_learning_rate,
            # The checker's spelling.
            "data_speed_perturbaton_min": self.speed_range[0],
            "data_speed_perturbaton_max": self.speed_range[1],
            "data_spec_augment_freq_n": self.masks["num_freq_masks"],
            "data_spec_augment_freq_min": 0,
            "data_spec_augment_freq_max": self.masks["max_freq_width"],
            "data_spec_augment_time_n": self.masks["num_time_masks"],
            "data_spec_augment_time_min": 0,
            "data_spec_augment_time_max": self.masks["max_time_share"],
            "model_eval_ema_factor": self.ema_factor,
            "model_weights_initialization_scale": getattr(self.net, "init_scale", None),
            "eval_max_prediction_symbols": self.max_symbols,
        }

    def mllog_tensors(self) -> Sequence[str]:
        """Return the layer names to log as ``weights_initialization``, none for a foreign net."""
        return self.net.tensor_names() if isinstance(self.net, RNNT) else ()
