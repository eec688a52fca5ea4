"""Small networks of the two benchmarks, and transformers' models with the same weights."""

import torch
import transformers

from modules.llm.net import GptOss, Llama31

LLAMA = {"vocab_size": 97, "hidden_size": 48, "num_layers": 3, "num_heads": 6, "num_kv_heads": 2,
         "head_size": 8, "intermediate_size": 40}  # fmt: skip
MOE = {**LLAMA, "num_experts": 5, "experts_per_token": 2, "intermediate_size": 24,
       "init_std": 0.05}  # fmt: skip


def small(kind, **settings):
    torch.manual_seed(3)
    net = kind(**{**(LLAMA if kind is Llama31 else MOE), **settings})
    with torch.no_grad():  # norms that matter
        for name, weight in net.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            elif "embed" in name:
                weight.normal_()
    return net


def shape_of(net, **settings):
    """The network's sizes as every configuration of transformers calls them."""
    attention = net.layers[0].self_attn
    return {"vocab_size": net.vocab_size, "hidden_size": net.norm.weight.numel(),
            "num_hidden_layers": len(net.layers), "head_dim": attention.head_size,
            "num_attention_heads": attention.q_proj.out_features // attention.head_size,
            "num_key_value_heads": attention.k_proj.out_features // attention.head_size,
            "rms_norm_eps": net.norm.eps, "tie_word_embeddings": False, "pad_token_id": None,
            "bos_token_id": None, "eos_token_id": None,
            "attn_implementation": "eager", **settings}  # fmt: skip


def with_prefix(state):
    return {name if name.startswith("lm_head") else f"model.{name}": x for name, x in state.items()}


def llama_of_transformers(net):
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    width = net.layers[0].mlp.gate_proj.out_features
    config = transformers.LlamaConfig(
        **shape_of(net, intermediate_size=width, rope_parameters=rope)
    )
    other = transformers.LlamaForCausalLM(config)
    other.load_state_dict(with_prefix(net.state_dict()))
    return other


def qwen_of_transformers(net, window=None):
    """Qwen3Moe, whose window counts the token itself."""
    experts = net.layers[0].mlp.experts.down_proj
    sliding = {} if window is None else {"use_sliding_window": True, "max_window_layers": 0,
                                         "sliding_window": window + 1}  # fmt: skip
    config = transformers.Qwen3MoeConfig(**shape_of(
        net, num_experts=len(experts), moe_intermediate_size=experts.shape[2], norm_topk_prob=True,
        num_experts_per_tok=net.layers[0].mlp.gate.experts_per_token, **sliding,
        rope_parameters={"rope_type": "default", "rope_theta": 1.5e5},
    ))  # fmt: skip
    other = transformers.Qwen3MoeForCausalLM(config)
    other.load_state_dict(with_prefix(net.state_dict()))
    return other


def gpt_oss_of_transformers(net):
    """OpenAI's network with all that the reference lacks switched off; no norms of q and k."""
    down = net.layers[0].mlp.experts.down_proj
    config = transformers.GptOssConfig(**shape_of(
        net, num_local_experts=len(down), intermediate_size=down.shape[2],
        num_experts_per_tok=net.layers[0].mlp.gate.experts_per_token,
        sliding_window=net.layers[0].self_attn.window + 1,
        layer_types=["full_attention" if i % 2 else "sliding_attention"
                     for i in range(len(net.layers))],
        rope_parameters={"rope_type": "default", "rope_theta": 1.5e5}, swiglu_limit=1e9,
    ))  # fmt: skip
    other = transformers.GptOssForCausalLM(config)
    state = {}
    for name, value in with_prefix(net.state_dict()).items():
        if name.endswith("gate_up_proj"):  # there (E, in, out), gate and up interleaved
            gate, up = value.transpose(1, 2).chunk(2, dim=2)
            value = torch.stack((gate, up), dim=-1).flatten(2)
        elif name.endswith("experts.down_proj"):
            value = value.transpose(1, 2)
        state[name.replace("mlp.gate.", "mlp.router.")] = value.contiguous()
    for name, value in other.state_dict().items():
        if name.endswith("gate_up_proj_bias"):
            state[name] = torch.zeros_like(value)
            state[name][:, 1::2] = -1.0  # OpenAI multiplies by up + 1
        elif name.endswith("sinks"):
            state[name] = torch.full_like(value, -1e9)
        elif name.endswith("bias"):
            state[name] = torch.zeros_like(value)
    other.load_state_dict(state)
    for layer in other.model.layers:
        layer.mlp.experts.alpha, layer.mlp.experts.limit = 1.0, 1e9
    return other


NETS = (Llama31, GptOss)
