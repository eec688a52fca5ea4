"""Pre-training of language models: how MLPerf Training v6.0 trains them and what it measures.

Shapes: B sequences, S tokens, V words. A batch is an int64 tensor (B, S + 1) of token ids: the
first S are the input, the last S the labels.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import AdamW, Optimizer

from modules.common.base import BenchmarkModule, out_of_range, scheduled
from modules.common.float64 import has_float64
from modules.common.schedules import warmup_cosine
from modules.llm.check_causal import check_causal
from modules.llm.generate import continuations, describe_continuations
from modules.llm.log_perplexity import LogPerplexity
from modules.llm.net import Decoder, GptOss, Llama31
from modules.llm.step_memory import step_bytes

# The part of an evaluation that is kept for ``sample.txt``.
NUM_PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 3, 32, 48
CHECKED_PRODUCTS = 10**10  # weights times tokens that a foreign network is checked with


class Llama31Module(BenchmarkModule):
    """Train a network to predict the next token; the defaults are the closed reference at batch 16.

    Args:
        net: Builds the network: int64 ids (B, S) in, logits (B, S, at least V) out. Models of the
            transformers library fit through ``modules.llm.transformers_adapter``.
        learning_rate: Rate at the end of the warm-up.
        warmup_steps: Optimizer steps of linear warm-up.
        max_steps: Optimizer steps that the cosine is laid out for, whatever the batch.
        end_rate_ratio: Rate at the end of the cosine, as a share of ``learning_rate``.
        first_step_done: 0 starts the warm-up at a rate of 0; 1 one step later.
        betas: Decay of AdamW's moments.
        eps: Added to the root of AdamW's second moment.
        weight_decay: Decoupled weight decay of matrices and tables; norms have none.
        max_grad_norm: Gradients are scaled down to this global norm.
        eos_id: Labels whose input is this token do not count; None counts all.

    Raises:
        ValueError: If a number is out of range; one line each.

    Source:
        mlcommons/training @ aa344c7, small_llm_pretraining/nemo; the reference convergence point
        at batch 16. Differs: one epoch at a time, evaluation in file order.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("log_perplexity",)
    metric_words: ClassVar[Mapping[str, str]] = {
        "log_perplexity": "mean cross-entropy per token, in nats"
    }

    def __init__(
        self,
        *,
        net: Callable[[], nn.Module] = Llama31,
        learning_rate: float = 4e-4,
        warmup_steps: int = 16,
        max_steps: int = 1_200_000,
        end_rate_ratio: float = 0.1,
        first_step_done: int = 1,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-5,
        weight_decay: float = 0.1,
        max_grad_norm: float = 1.0,
        eos_id: int | None = None,
    ) -> None:
        super().__init__()
        checks = (
            ("learning_rate", learning_rate, "at least 0", learning_rate >= 0),
            ("warmup_steps", warmup_steps, "at least 0", warmup_steps >= 0),
            ("max_steps", max_steps, "above 2 * warmup_steps", max_steps > 2 * warmup_steps),
            ("first_step_done", first_step_done, "0 or 1", first_step_done in (0, 1)),
            ("max_grad_norm", max_grad_norm, "above 0", max_grad_norm > 0),
        )
        if lines := out_of_range(checks):
            raise ValueError("\n".join(lines))
        self._build_net = net
        self._init_weights: Path | str | None = None
        self.learning_rate, self.warmup_steps = learning_rate, warmup_steps
        self.max_steps, self.end_rate_ratio = max_steps, end_rate_ratio
        self.first_step_done = first_step_done
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.max_grad_norm, self.eos_id = max_grad_norm, eos_id
        self.log_perplexity = LogPerplexity()
        self._prompts: list[Tensor] = []
        self._continued: tuple[Tensor, Tensor] | None = None

    def setup(self, stage: str) -> None:
        """Build the network, not earlier: it takes 32 GB, and settings may be wrong."""
        self.build()
        strategy = getattr(self.trainer, "strategy", None)
        if strategy is not None and not has_float64(strategy.root_device):
            self.log_perplexity.set_dtype(torch.float32)
        size = getattr(getattr(self.trainer, "datamodule", None), "vocab_size", None)
        own = getattr(self.net, "vocab_size", None)
        if size is not None and own is not None and own < size:
            raise ValueError(
                f"the net has {own} words (model.net.vocab_size), but the data {size}; it may have "
                "more, but not fewer"
            )

    def build(self) -> None:
        """Build the network with the weights that the run's seed gives, once."""
        if "net" in self._modules:
            return
        # Not the state that preparing the data left: ranks would start from different weights.
        own = self.draws_after_sharding and self._init_weights is None and self._draws_itself()
        with torch.random.fork_rng(devices=[]), torch.device("meta") if own else nullcontext():
            torch.default_generator.manual_seed(torch.initial_seed())
            self.net = self._build_net()
        if self._init_weights is not None:
            super().start_from(self._init_weights)

    def memory_facts(self, datamodule: Any) -> dict[str, float]:
        """Count what a step takes on a device, before the network has memory.

        Args:
            datamodule: Tells the batch of a device and the length of its sequences.

        Returns:
            ``parameters``, and for a decoder of ours the bytes of ``step_bytes``.
        """
        if "net" in self._modules:
            net = self.net
        elif self._draws_itself():
            with torch.device("meta"):
                net = self._build_net()
        else:
            return {"parameters": 0}
        facts: dict[str, float] = {"parameters": sum(p.numel() for p in net.parameters())}
        if isinstance(net, Decoder):
            facts |= step_bytes(net, datamodule.batch_size, datamodule.seq_length)
        return facts

    def _draws_itself(self) -> bool:
        """Whether the network can be built without memory and filled later."""
        return hasattr(getattr(self._build_net, "target", self._build_net), "draw_weights")

    def start_from(self, path: Path | str) -> None:
        """Load the weights when the network is built."""
        self._init_weights = path
        self.own_weights = True
        if "net" in self._modules:
            super().start_from(path)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.build()

    def expected_state(self) -> dict[str, Any]:
        """Return tensors of the shapes that a checkpoint must have, without building the network.

        Empty for a network that cannot be built without memory.
        """
        if "net" in self._modules:
            return self.state_dict()
        try:
            with torch.device("meta"):
                net = self._build_net()
        except Exception:  # a network of the user's may compute while it is built
            return {}
        return {f"net.{name}": tensor for name, tensor in net.state_dict().items()}

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Compute the mean cross-entropy of a batch's tokens, a float32 scalar."""
        losses_BS, weights_BS = self._losses(batch)
        loss = (losses_BS * weights_BS).sum() / weights_BS.sum().clamp(min=1)  # may all be ends
        self.log_loss(loss)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Add a batch's tokens; it may be empty, as sharded ranks take equally many batches."""
        self.log_perplexity.update(*self._losses(batch))
        kept = [] if batch_idx == 0 else self._prompts
        lacking = NUM_PROMPTS - sum(map(len, kept))
        self._prompts = [*kept, batch[:lacking, : PROMPT_TOKENS + NEW_TOKENS]]

    def on_validation_epoch_end(self) -> None:
        """Log the value over all ranks' tokens as ``val/log_perplexity``."""
        value = self.log_perplexity.compute()
        self.log_perplexity.reset()
        self.log("val/log_perplexity", value, sync_dist=False)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = AdamW(self.parameter_groups(), lr=1.0, betas=self.betas, eps=self.eps)
        return scheduled(optimizer, self.step_learning_rate)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Separate tensors of one dimension, which do not decay, from the rest."""
        weights = [w for w in self.net.parameters() if w.requires_grad]
        return [
            {"params": [w for w in weights if w.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
        ]

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the global norm over all ranks' shares; the trainer's flag, if given, instead."""
        if gradient_clip_val is not None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.max_grad_norm)

    def step_learning_rate(self, steps_done: int) -> float:
        # Megatron lays its cosine out to the end of ``max_steps`` less the warm-up, NeMo to their
        # end. No run gets there.
        early = 0 if self.first_step_done else self.warmup_steps
        return warmup_cosine(
            steps_done,
            learning_rate=self.learning_rate,
            end_learning_rate=self.end_rate_ratio * self.learning_rate,
            warmup_steps=self.warmup_steps,
            decay_end_step=self.max_steps - early,
            first_step_done=self.first_step_done,
        )

    def check_net(self, *, vocab_size: int = 0, seq_length: int = 16) -> None:
        """Raise a ValueError unless the network predicts words from earlier ones only.

        Args:
            vocab_size: Words of the data; the network may have more.
            seq_length: Tokens of the data's sequences; a large network is checked on fewer.
        """
        self.build()
        # Layers that take their size from the first input have none yet.
        count = sum(p.numel() for p in self.net.parameters() if not is_lazy(p))
        # A large network is not run on thousands of tokens on a CPU.
        length = min(seq_length, max(16, CHECKED_PRODUCTS // max(count, 1)))
        check_causal(self.net, vocab_size=vocab_size, length=length)

    def train_flops(self, batch: Tensor) -> int:
        """Count the operations of a training step; 0 for a foreign network."""
        if not isinstance(self.net, Decoder):
            return 0
        return len(batch) * self.net.train_flops(batch.shape[1] - 1)

    def mllog_facts(self) -> dict[str, object]:
        """Return hyperparameters under the names of the v6.0 compliance checker."""
        return {
            "opt_name": "adamw",
            "opt_base_learning_rate": self.learning_rate,
            "opt_end_learning_rate": self.end_rate_ratio * self.learning_rate,
            "opt_learning_rate_warmup_steps": self.warmup_steps,
            "opt_learning_rate_decay_steps": self.max_steps - self.warmup_steps,
            "opt_learning_rate_decay_schedule": "cosine with linear warmup",
            "opt_adamw_beta_1": self.betas[0],
            "opt_adamw_beta_2": self.betas[1],
            "opt_adamw_epsilon": self.eps,
            "opt_adamw_weight_decay": self.weight_decay,
            "opt_gradient_clip_norm": self.max_grad_norm,
            "max_steps": self.max_steps,
        }

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """Continue a text by 48 tokens.

        Args:
            batch: ``ids`` (B, S) int64; ``num_words`` that may be chosen; ``longest``, the tokens
                that the network is given at once.
            batch_idx: Of a loader; unused.

        Returns:
            int64 (2, B, 48): the likeliest tokens, and tokens drawn at a temperature of 0.8.
        """
        limits = {key: batch[key] for key in ("num_words", "longest")}
        return continuations(self.net, batch["ids"], NEW_TOKENS, **limits).cpu()

    def gather_artifacts(self) -> None:
        """Continue some held-out texts; all ranks of a sharded network run it together."""
        texts = torch.cat(self._prompts) if self._prompts else torch.empty(0)
        if not len(texts):
            return
        continued = continuations(
            self.net, texts[:, :PROMPT_TOKENS], NEW_TOKENS, num_words=self._num_words()
        )
        self._continued = (texts.cpu(), continued.cpu())

    def write_artifacts(self, folder: Path) -> None:
        """Write ``sample.txt``: how the network continues some held-out texts.

        Args:
            folder: The run's directory.
        """
        if self._continued is None:
            return
        decode = getattr(getattr(self.trainer, "datamodule", None), "decode", None)
        text = describe_continuations(*self._continued, PROMPT_TOKENS, decode)
        (folder / "sample.txt").write_text(text, encoding="utf-8")

    def _num_words(self) -> int | None:
        """Return the words that may be predicted: the data's, of which a net may have more."""
        datamodule: Any = getattr(self._trainer, "datamodule", None)
        return getattr(datamodule, "vocab_size", None)

    def _losses(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss and the weight, 0 or 1, of every label; both float32 (B, S)."""
        ids, labels = batch[:, :-1], batch[:, 1:]
        if isinstance(self.net, Decoder):
            losses = self.net(ids, labels)
        else:
            logits_BSV = self.net(ids)[..., : self._num_words()]
            losses = F.cross_entropy(
                logits_BSV.flatten(0, 1).float(), labels.flatten(), reduction="none"
            ).view(labels.shape)
        counted = torch.ones_like(losses) if self.eos_id is None else (ids != self.eos_id).float()
        return losses, counted


class GptOssModule(Llama31Module):
    """Train GPT-OSS to predict the next token; the defaults are the closed reference at batch 16.

    Args:
        net: Builds the network: int64 ids (B, S) in, logits (B, S, at least V) out.
        warmup_steps: Optimizer steps of linear warm-up.
        first_step_done: 0 starts the warm-up at a rate of 0; 1 one step later.
        eos_id: Labels whose input is this token do not count; None counts all.
        **settings: Further arguments of ``Llama31Module``.

    Source:
        mlcommons/training @ aa344c7, small_llm_moe_pretraining/primus. Differs: as Llama 3.1's.
    """

    def __init__(
        self,
        *,
        net: Callable[[], nn.Module] = GptOss,
        warmup_steps: int = 128,
        first_step_done: int = 0,
        eos_id: int | None = 128_001,
        **settings: Any,
    ) -> None:
        super().__init__(
            net=net,
            warmup_steps=warmup_steps,
            first_step_done=first_step_done,
            eos_id=eos_id,
            **settings,
        )
