"""Reads BERT's weights from the published TensorFlow checkpoints, from safetensors or from torch.

Only weights are read: optimizer moments and step counts, which the published file also holds,
start anew, as the rules require.
"""

import pickle
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.common.tensor_bundle import TensorBundle
from modules.common.torch_file import check_sums

# A tensor with such a part in its name belongs to the optimizer.
OPTIMIZER = re.compile(
    r"(^|/)(LAMB\w*|adam_[mv]|global_step|save_counter|.*_power|Adam\w*"
    # Slots of the reference's checkpoint_add_gradacc.py.
    r"|GradientAccumulator|accum_grads)(_\d+)?(/|$)"
)
# Duplicates of tied tensors, and constants, that some writers keep.
REDUNDANT = re.compile(r"predictions/decoder/(weight|bias|kernel)$|embeddings/position_ids$")
_LAYER = r"bert/encoder/layer_(\d+)/"
_KERAS_LAYER = r"transformer/layer_(\d+)/"
RULES = tuple(
    (re.compile(pattern + "$"), ours)
    for pattern, ours in (
        (r"bert/embeddings/word_embeddings(/weight)?", "embeddings.word.weight"),
        (r"bert/embeddings/position_embeddings(/weight)?", "embeddings.position.weight"),
        (r"bert/embeddings/token_type_embeddings(/weight)?", "embeddings.segment.weight"),
        (r"bert/embeddings/LayerNorm/(\w+)", r"embeddings.norm.\1"),
        (_LAYER + r"attention/self/(query|key|value)/(\w+)", r"layers.\1.\2.\3"),
        (_LAYER + r"attention/output/dense/(\w+)", r"layers.\1.output.\2"),
        (_LAYER + r"attention/output/LayerNorm/(\w+)", r"layers.\1.attention_norm.\2"),
        (_LAYER + r"intermediate/dense/(\w+)", r"layers.\1.up.\2"),
        (_LAYER + r"output/dense/(\w+)", r"layers.\1.down.\2"),
        (_LAYER + r"output/LayerNorm/(\w+)", r"layers.\1.norm.\2"),
        (r"bert/pooler/dense/(\w+)", r"pooler.\1"),
        (r"cls/predictions/transform/dense/(\w+)", r"transform.\1"),
        (r"cls/predictions/transform/LayerNorm/(\w+)", r"transform_norm.\1"),
        (r"cls/predictions/(output_)?bias", "output_bias"),
        (r"cls/seq_relationship/(output_)?(weights|weight|bias)", r"next_sentence.\2"),
        # TensorFlow 2, as named by the converter that the reference's page links.
        (r"word_embeddings/embeddings", "embeddings.word.weight"),
        (r"position_embedding/(position_)?embeddings", "embeddings.position.weight"),
        (r"type_embeddings/embeddings", "embeddings.segment.weight"),
        (r"embeddings/layer_norm/(\w+)", r"embeddings.norm.\1"),
        (_KERAS_LAYER + r"self_attention/(query|key|value)/(\w+)", r"layers.\1.\2.\3"),
        (_KERAS_LAYER + r"self_attention/attention_output/(\w+)", r"layers.\1.output.\2"),
        (_KERAS_LAYER + r"self_attention_layer_norm/(\w+)", r"layers.\1.attention_norm.\2"),
        (_KERAS_LAYER + r"intermediate/(\w+)", r"layers.\1.up.\2"),
        (_KERAS_LAYER + r"output/(\w+)", r"layers.\1.down.\2"),
        (_KERAS_LAYER + r"output_layer_norm/(\w+)", r"layers.\1.norm.\2"),
        (r"pooler_transform/(\w+)", r"pooler.\1"),
        (r"cls/predictions/output_bias/bias", "output_bias"),
        (r"predictions/transform/logits/(\w+)", r"next_sentence.\1"),
    )
)
LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "weights": "weight"}


def our_name(name: str) -> str | None:
    """Translate a published tensor name to ours; None for optimizer state and duplicates."""
    # TensorFlow 1 writes bert/encoder/layer_0/..., transformers bert.encoder.layer.0...
    path = re.sub(r"/layer/(\d+)/", r"/layer_\1/", name.replace(".", "/"))
    if OPTIMIZER.search(path) or REDUNDANT.search(path):
        return None
    for pattern, ours in RULES:
        if match := pattern.match(path):
            stem, _, leaf = match.expand(ours).rpartition(".")
            return f"{stem}.{LEAVES.get(leaf, leaf)}" if stem else leaf
    return name  # ours already, or unknown


def load_checkpoint(net: nn.Module, path: Path) -> None:
    """Fill a ``Bert`` with a checkpoint's weights; a ValueError names what does not fit."""
    sources = _sources(path)
    wanted = dict(net.state_dict())
    lines = []
    for name, read in sources.items():
        if name not in wanted:
            lines.append(f"{path}: the net has no tensor {name}")
            continue
        mine, theirs = wanted.pop(name), read()
        if mine.shape != theirs.shape:
            lines.append(
                f"{path}: tensor {name} has shape {tuple(theirs.shape)}, "
                f"the net needs {tuple(mine.shape)}"
            )
            continue
        if not theirs.isfinite().all():
            lines.append(f"{path}: tensor {name} has values that are not finite")
            continue
        with torch.no_grad():
            mine.copy_(theirs)
    lines += [f"{path}: tensor {name} is missing" for name in wanted]
    if lines:
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise ValueError(lines[0] + more + "; it must be a checkpoint of the same BERT")


def _sources(path: Path) -> Mapping[str, Callable[[], Tensor]]:
    """Find readers of a checkpoint's weights, by our name."""
    if path.suffix == ".safetensors":
        return _renamed(_read_safetensors(path))
    # A TensorFlow prefix may end in .ckpt too.
    if path.suffix in (".pt", ".pth", ".bin") or (path.suffix == ".ckpt" and path.is_file()):
        return _renamed(_read_torch(path))
    return _tensorflow(path.with_suffix("") if path.suffix == ".index" else path)


def _tensorflow(prefix: Path) -> Mapping[str, Callable[[], Tensor]]:
    bundle = TensorBundle(prefix)
    sources = {}
    for name, key in bundle.variables().items():
        if (ours := our_name(name)) is not None:
            sources[ours] = partial(_read_tensorflow, bundle, key, name)
    return sources


def _read_tensorflow(bundle: TensorBundle, key: str, name: str) -> Tensor:
    """Read one weight in torch's layout: kernels are stored as [in, out]."""
    tensor = torch.from_numpy(bundle.read(key).copy())
    if name.endswith("/bias"):
        return tensor.flatten()
    if not name.endswith("/kernel"):
        return tensor
    if tensor.ndim == 3:  # TensorFlow 2 keeps heads apart: [in, heads, out] or [heads, in, out]
        into = "/attention_output/" in name
        tensor = tensor.flatten(0, 1) if into else tensor.flatten(1)
    return tensor.T


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    """Read a state dict, or a Lightning checkpoint of ours."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing")
    check_sums(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is empty"
        raise ValueError(f"{path}: not a torch file of weights ({reason})") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise ValueError(f"{path}: not a torch file of weights (no tensors by name)")
    return {name.removeprefix("net."): tensor for name, tensor in state.items()}


def _renamed(state: Mapping[str, Tensor]) -> Mapping[str, Callable[[], Tensor]]:
    named = {name: our_name(name) for name in state}
    return {ours: partial(state.__getitem__, n) for n, ours in named.items() if ours is not None}
