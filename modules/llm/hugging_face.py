"""Writes a network for Hugging Face's transformers: tensors and configuration."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from modules.llm.net import Decoder, GptOss, Llama31


def published_names(net: Decoder) -> dict[str, Tensor]:
    """Return a network's tensors under the names of the files on the hub, experts one by one."""
    published: dict[str, Tensor] = {}
    for name, tensor in net.state_dict().items():
        full = name if name.startswith("lm_head.") else f"model.{name}"
        if not full.endswith(("experts.gate_up_proj", "experts.down_proj")):
            published[full] = tensor
            continue
        stem = full.rpartition(".")[0]
        for number, matrix in enumerate(tensor):
            whole = full.endswith("gate_up_proj")
            parts = matrix.chunk(2) if whole else (matrix,)
            for kind, part in zip(("gate", "up") if whole else ("down",), parts, strict=True):
                published[f"{stem}.{number}.{kind}_proj.weight"] = part.contiguous()
    return published


def save_for_transformers(net: Decoder, folder: Path) -> None:
    """Write ``model.safetensors`` and ``config.json`` for transformers' ``from_pretrained``.

    Args:
        net: A Llama, or a GPT-OSS without windows and with norms of queries and keys, which is
            transformers' Qwen3Moe.
        folder: Made if it does not exist.

    Raises:
        ValueError: If transformers has no such network.
    """
    from safetensors.torch import save_file

    config = _config(net)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(published_names(net), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _config(net: Decoder) -> dict[str, Any]:
    """Describe a network as transformers does."""
    layer: Any = net.layers[0]
    attention, size = layer.self_attn, layer.self_attn.head_size
    shape = {
        "vocab_size": net.vocab_size,
        "hidden_size": net.norm.weight.numel(),
        "num_hidden_layers": len(net.layers),
        "num_attention_heads": attention.q_proj.out_features // size,
        "num_key_value_heads": attention.k_proj.out_features // size,
        "head_dim": size,
        "rms_norm_eps": net.norm.eps,
        "tie_word_embeddings": False,
    }
    if isinstance(net, Llama31):
        scaling = net.rope_scaling
        rope = {"rope_type": "default"} if scaling is None else {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
            "original_max_position_embeddings": int(scaling.context),
        }  # fmt: skip
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **shape,
            "intermediate_size": layer.mlp.gate_proj.out_features,
            "rope_parameters": {**rope, "rope_theta": net.rope_base},
        }
    if not isinstance(net, GptOss) or attention.window is not None or not attention.has_norms:
        raise ValueError(
            "transformers has no network with alternating windows and norms of queries and keys; "
            "use published_names(net) for the tensors alone"
        )
    experts = layer.mlp.experts.down_proj
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        **shape,
        "num_experts": len(experts),
        "num_experts_per_tok": layer.mlp.gate.experts_per_token,
        "moe_intermediate_size": experts.shape[2],
        "norm_topk_prob": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": net.rope_base},
    }
