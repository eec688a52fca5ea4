"""BERT pre-training: how MLPerf Training v1.0 trains it and what it measures.

Shapes: B samples, T tokens of all of them concatenated, M masked positions, V words. A batch is a
dict: ``input_ids``, ``segment_ids`` and ``position_ids`` (T,), ``cu_seqlens`` (B + 1,),
``masked_index``, ``masked_labels`` and ``masked_samples`` (M,), ``random_next`` and ``index`` (B,).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from modules.bert.checkpoint import load_checkpoint
from modules.bert.masked_lm import MaskedAccuracy, masked_lm_loss
from modules.bert.net import Bert
from modules.common.base import BenchmarkModule, out_of_range, scheduled
from modules.common.check_net import dry_run
from modules.common.lamb import Lamb
from modules.common.schedules import warmup_linear_decay

# Samples of the evaluation set whose predictions are kept for reading.
NUM_EXAMPLES = 10
# Half precision moves the accuracy of the starting weights less than this; a wrong epsilon, GELU
# variant or transposed matrix moves it more.
START_TOLERANCE = 1e-3
NUM_CANDIDATES = 5  # words per masked position that ``predict_step`` returns
# The reference rescales without decay too; our LAMB, like apex', rescales only what decays.
WITHOUT_DECAY = "above 0, as LAMB rescales no tensor without it (1e-30 decays nothing)"


class Batch(TypedDict):
    """Concatenated samples, without padding."""

    input_ids: Tensor
    segment_ids: Tensor
    position_ids: Tensor
    cu_seqlens: Tensor
    masked_index: Tensor
    masked_labels: Tensor
    masked_samples: Tensor
    random_next: Tensor
    index: Tensor


class BertModule(BenchmarkModule):
    """Train a network to fill in masked words; the defaults are the closed reference at batch 256.

    Args:
        net: Builds the network; see ``Bert.forward`` for its inputs and outputs. Other models of
            the transformers library fit through ``modules.bert.transformers_adapter``.
        checkpoint: Starting weights: a TensorFlow checkpoint, safetensors or torch file; by default
            the published one in the data's root.
        from_scratch: Start from random weights although there is a data root.
        starting_accuracy: Expected accuracy of the starting weights; ``validate`` without a
            checkpoint checks it. None skips the check, as for weights of your own.
        learning_rate: Rate that the decay starts from.
        training_steps: Step at which the rate reaches 0.
        warmup_steps: Steps of linear warm-up; 0 for none.
        start_warmup_step: Step at which the warm-up would be at 0; may be negative.
        betas: Decay of LAMB's moments.
        eps: Added to the root of LAMB's second moment.
        weight_decay: Weight decay of matrices and tables; biases and LayerNorm have none.
        max_grad_norm: Gradients are scaled down to this global norm.

    Raises:
        ValueError: If a number is out of range; one line each.

    Source:
        mlcommons/training @ 9947bdf2, language_model/tensorflow/bert; hyperparameters of the
        reference convergence point at batch 256.
    """

    metric_names: ClassVar[tuple[str, ...]] = (
        "masked_lm_accuracy",
        "next_sentence_accuracy",
        "masked_lm_loss",
    )
    metric_words: ClassVar[Mapping[str, str]] = {
        "masked_lm_accuracy": "share of masked words filled in right"
    }

    def __init__(
        self,
        *,
        net: Callable[[], nn.Module] = Bert,
        checkpoint: Path | None = None,
        from_scratch: bool = False,
        starting_accuracy: float | None = 0.34085,
        learning_rate: float = 3.5e-4,
        training_steps: int = 13_700,
        warmup_steps: int = 0,
        start_warmup_step: int = 0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        max_grad_norm: float = 1.0,
    ) -> None:
        super().__init__()
        in_order = warmup_steps == 0 or start_warmup_step <= 0  # else the first rates are negative
        checks = (
            ("learning_rate", learning_rate, "at least 0", learning_rate >= 0),
            ("training_steps", training_steps, "at least 1", training_steps >= 1),
            ("warmup_steps", warmup_steps, "at least 0", warmup_steps >= 0),
            ("start_warmup_step", start_warmup_step, "at most 0 with warmup_steps", in_order),
            ("weight_decay", weight_decay, WITHOUT_DECAY, weight_decay > 0),
        )
        if lines := out_of_range(checks):
            raise ValueError("\n".join(lines))
        self.net = net()
        self.checkpoint, self.from_scratch = checkpoint, from_scratch
        self.starting_accuracy = starting_accuracy
        self.learning_rate, self.training_steps = learning_rate, training_steps
        self.warmup_steps, self.start_warmup_step = warmup_steps, start_warmup_step
        self.betas, self.eps = betas, eps
        self.weight_decay, self.max_grad_norm = weight_decay, max_grad_norm
        self.accuracy = MaskedAccuracy()
        self._examples: tuple[Batch, Tensor] | None = None
        self._predicts_next = True

    def setup(self, stage: str) -> None:
        """Load the starting weights, unless a run is resumed or a checkpoint evaluated."""
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            self._compare_sizes(datamodule)
        path = None if self.trainer.ckpt_path else self.starting_weights(datamodule)
        if path is not None:
            self._load(path)

    def _compare_sizes(self, datamodule: Any) -> None:
        """Check that the net has enough words and positions for the data."""
        size = getattr(datamodule, "vocab_size", None)
        if isinstance(self.net, Bert) and size not in (None, self.net.vocab_size):
            raise ValueError(
                f"the net has {self.net.vocab_size} words (model.net.vocab_size), the data {size} "
                "(data.vocab_size); they must be equal"
            )
        if size is not None and getattr(self.net, "vocab_size", size) < size:
            raise ValueError(
                f"the net has {self.net.vocab_size} words, the data {size} (data.vocab_size); "
                "a foreign net may have more, but not fewer"
            )
        longest = getattr(getattr(datamodule, "recipe", None), "max_seq_length", 0)
        if not isinstance(self.net, Bert):
            if longest:
                self._try_net(longest)  # it may have fewer positions than its settings say
        elif self.net.max_positions < longest:
            raise ValueError(
                f"the net has {self.net.max_positions} positions (model.net.max_positions), "
                f"samples have up to {longest} tokens (data.max_seq_length)"
            )

    def starting_weights(self, datamodule: Any) -> Path | None:
        """Return the path of the weights that training starts from; None for random ones."""
        if self.from_scratch or self.own_weights:
            return None
        path = self.checkpoint
        if path is None and isinstance(self.net, Bert):
            path = getattr(datamodule, "checkpoint", None)
        return None if path is None else Path(path)

    def judge_start(self, quality: Mapping[str, float]) -> tuple[bool, str] | None:
        """Compare an evaluation of the starting weights with the expected accuracy.

        Args:
            quality: Value of each metric.

        Returns:
            Whether it is as expected, and a sentence; None without an expectation.
        """
        if self.starting_accuracy is None:
            return None
        accuracy = quality["masked_lm_accuracy"]
        right = abs(accuracy - self.starting_accuracy) <= START_TOLERANCE
        verdict = "are right" if right else "are not the expected ones"
        return right, (
            f"Starting checkpoint and evaluation data {verdict}: masked_lm_accuracy "
            f"{accuracy:.5f}, expected {self.starting_accuracy:.5f} to within {START_TOLERANCE}."
        )

    def _load(self, path: Path) -> None:
        try:
            load_checkpoint(self.net, path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}: the starting checkpoint; get tf1_ckpt/ or tf2_ckpt/ from the bundle "
                "'bert-input-files' of the MLCommons downloader (4.0 or 1.3 GB), pass another one "
                "with --model.checkpoint FILE, or start with --model.from_scratch true (open "
                "division)"
            ) from error

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Add masked-word and next-sentence loss; return a float32 scalar."""
        word_logits, next_logits = self._forward(batch)
        loss = masked_lm_loss(word_logits, batch["masked_labels"])
        if next_logits is not None:
            loss = loss + F.cross_entropy(next_logits.float(), batch["random_next"])
        self.log_loss(loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Give every rank an empty entry, even one that gets no sample."""
        self.accuracy.add_nothing()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        word_logits, next_logits = self._forward(batch)
        random_next = batch["random_next"]
        if next_logits is None:
            self._predicts_next, right = False, torch.zeros_like(random_next)
        else:
            right = (next_logits.argmax(1) == random_next).long()
        self.accuracy.update(
            batch["index"], word_logits, batch["masked_labels"], batch["masked_samples"], right
        )
        if batch_idx == 0:
            self._examples = (batch, word_logits.argmax(1))  # for write_artifacts

    def predict_step(self, batch: Batch, batch_idx: int) -> list[list[tuple[int, float]]]:
        """Fill in the masked words of a batch.

        Args:
            batch: As in an evaluation.
            batch_idx: Of a loader; unused.

        Returns:
            Per masked position the ids and probabilities of the five best words, best first.
        """
        word_logits, _ = self._forward(batch)
        share_MV = word_logits.float().softmax(1)
        top = share_MV.topk(min(NUM_CANDIDATES, share_MV.shape[1]))
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return [list(zip(*pair, strict=True)) for pair in pairs]

    def on_validation_epoch_end(self) -> None:
        """Log the values over all samples as ``val/<name>``, equal on every rank."""
        values = self.accuracy.compute()
        self.accuracy.reset()
        if not self._predicts_next:  # the net lacks that head
            del values["next_sentence_accuracy"]
        self.log_dict({f"val/{name}": value for name, value in values.items()}, sync_dist=False)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = Lamb(
            self.parameter_groups(),
            lr=1.0,
            betas=self.betas,
            eps=self.eps,
            max_grad_norm=self.max_grad_norm,
        )
        return scheduled(optimizer, self.step_learning_rate)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Separate biases and norms, which LAMB neither decays nor rescales, from the rest."""
        weights = [w for w in self.net.parameters() if w.requires_grad]
        return [
            {"params": [w for w in weights if w.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
        ]

    def step_learning_rate(self, steps_done: int) -> float:
        return warmup_linear_decay(
            steps_done,
            learning_rate=self.learning_rate,
            training_steps=self.training_steps,
            warmup_steps=self.warmup_steps,
            start_warmup_step=self.start_warmup_step,
        )

    @property
    def schedule_steps(self) -> int:
        """Optimizer steps until the rate is 0; further ones change nothing."""
        return self.training_steps

    @property
    def peak_learning_rate(self) -> float:
        """The last rate of the rise or the first of the decay, whichever is higher."""
        if not self.warmup_steps:
            return self.learning_rate
        top = max(self.start_warmup_step + self.warmup_steps, 0)
        return max(self.step_learning_rate(step) for step in (max(top - 1, 0), top))

    def check_net(self, *, vocab_size: int = 0) -> None:
        """Raise a ValueError unless the network fills in words, in evaluation and in training.

        Args:
            vocab_size: Words of the data; the network may have more.
        """
        self._try_net(3, 2, vocab_size=vocab_size)
        self._try_net(3, 2, vocab_size=vocab_size, training=True)

    def _try_net(self, *lengths: int, vocab_size: int = 0, training: bool = False) -> None:
        """Run the network on samples of some lengths; the second token of each is masked."""
        position_T = torch.cat([torch.arange(length) for length in lengths])
        starts = torch.tensor([0, *lengths]).cumsum(0)
        name, size = type(self.net).__name__, len(lengths)
        tokens = " and ".join(str(length) for length in lengths)
        mode = " in training" if training else ""
        with dry_run(self.net, f"{name} fails on samples of {tokens} tokens{mode}"):
            words, nexts = self.net.train(training)(
                position_T % 3 + 2, position_T * 0, position_T, starts.int(), starts[:-1] + 1
            )
            got = (tuple(words.shape), None if nexts is None else tuple(nexts.shape))
        if len(got[0]) != 2 or got[0][0] != size or got[1] not in (None, (size, 2)):
            raise ValueError(
                f"{name} returned shapes {got} for {size} samples with a masked word each{mode}; "
                f"needed ({size}, words) and ({size}, 2), or None for the second"
            )
        if got[0][1] < vocab_size:
            raise ValueError(f"{name} knows {got[0][1]} words, but the data has {vocab_size}")

    def train_flops(self, batch: Batch) -> int:
        """Count the operations of a training step on its real tokens; 0 for a foreign network."""
        if not isinstance(self.net, Bert):
            return 0
        starts = batch["cu_seqlens"].tolist()
        return self.net.train_flops(
            [b - a for a, b in zip(starts, starts[1:], strict=False)], batch["masked_index"].numel()
        )

    def mllog_facts(self) -> dict[str, object]:
        """Return hyperparameters under the names of the v1.0 compliance checker."""
        return {
            "opt_name": "lamb",
            "opt_base_learning_rate": self.learning_rate,
            "opt_epsilon": self.eps,
            "opt_learning_rate_training_steps": self.training_steps,
            "opt_learning_rate_warmup_steps": self.warmup_steps,
            "num_warmup_steps": self.warmup_steps,
            "start_warmup_step": self.start_warmup_step,
            "opt_lamb_beta_1": self.betas[0],
            "opt_lamb_beta_2": self.betas[1],
            "opt_lamb_weight_decay_rate": self.weight_decay,
            "opt_lamb_learning_rate_decay_poly_power": 1.0,
            "opt_gradient_clip_norm": self.max_grad_norm,
        }

    def mllog_tensors(self) -> Sequence[str]:
        """Name the tensors for ``weights_initialization`` events; none for a foreign network."""
        return list(self.net.tensor_names()) if isinstance(self.net, Bert) else ()

    def write_artifacts(self, folder: Path) -> None:
        """Write ``predictions.txt``: masked sentences and the words that the net filled in."""
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if self._examples is not None and hasattr(datamodule, "vocabulary"):
            text = describe_predictions(*self._examples, datamodule.vocabulary(), NUM_EXAMPLES)
            (folder / "predictions.txt").write_text(text, encoding="utf-8")

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Predict words (M, V) and, if the net has that head, next sentences (B, 2)."""
        return self.net(
            batch["input_ids"],
            batch["segment_ids"],
            batch["position_ids"],
            batch["cu_seqlens"],
            batch["masked_index"],
        )


def describe_predictions(
    batch: Batch, predicted_M: Tensor, vocabulary: Sequence[str], limit: int
) -> str:
    """Return the first samples as text, with a line per masked position."""
    starts = batch["cu_seqlens"].tolist()
    seen = [vocabulary[i] for i in batch["input_ids"].tolist()]
    index, labels = batch["masked_index"].tolist(), batch["masked_labels"].tolist()
    lines = ["Evaluation samples: the text as the net saw it, then what it filled in."]
    for sample in range(min(limit, len(starts) - 1)):
        first, end = starts[sample], starts[sample + 1]
        lines += ["", f"sample {sample}", " ".join(seen[first:end]).replace(" ##", "")]
        for position, label, guess in zip(index, labels, predicted_M.tolist(), strict=True):
            if first <= position < end:
                word = vocabulary[label]
                # A foreign net may know more words than the data has.
                answer = vocabulary[guess] if guess < len(vocabulary) else f"[word {guess}]"
                verdict = "right" if guess == label else f"wrong, it was {word}"
                offset = position - first
                lines.append(f"  {offset:4d}  {seen[position]:14} -> {answer:14} {verdict}")
    return "\n".join(lines) + "\n"
