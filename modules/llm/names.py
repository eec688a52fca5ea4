"""Names of tensors in the files of Hugging Face's hub, translated to ours."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

EXPERT = re.compile(r"(layers\.\d+\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


def own_names(saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a file's tensors to ours and join the experts that it holds one by one.

    Args:
        saved: Tensors of a Llama or Qwen3Moe file, with or without a leading ``model.``; tensors
            of other names stay as they are.

    Returns:
        Our name -> tensor.
    """
    own: dict[str, Tensor] = {}
    experts: dict[str, dict[tuple[str, int], Tensor]] = {}
    for name, tensor in saved.items():
        name = name.removeprefix("net.").removeprefix("model.")
        if match := EXPERT.fullmatch(name):
            experts.setdefault(match[1], {})[match[3], int(match[2])] = tensor
        else:
            own[name] = tensor
    for name, parts in experts.items():
        count = 1 + max(number for _, number in parts)
        if len(parts) == 3 * count:  # otherwise the file is incomplete: reported as missing tensors
            gate_up = [
                torch.cat((parts["gate", number], parts["up", number])) for number in range(count)
            ]
            own[f"{name}.gate_up_proj"] = torch.stack(gate_up)
            own[f"{name}.down_proj"] = torch.stack([parts["down", n] for n in range(count)])
    return own
