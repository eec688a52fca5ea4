"""Start from the weights of a file, as many as fit: ``--init_weights`` and the same in Python."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules.common.torch_file import load_verified

PREFIXES = ("", "net.", "module.", "model.", "net.module.", "module.net.", "model.net.")
SHOWN = 6  # names in a message


def load_init_weights(net: nn.Module, path: Path | str) -> str:
    """Copy a file's tensors into a network where name and shape agree; leave the rest as it was.

    Args:
        net: The network.
        path: safetensors or a directory of them, a state dict of ``torch.save``, or a checkpoint
            that holds one, such as a run's ``checkpoints/last.ckpt``, which may be a folder.

    Returns:
        One line: how many tensors were loaded, and by name what was not.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, or no tensor fits.
    """
    path = Path(path)
    saved, own = read_state(path), net.state_dict()
    # A network whose published files have other names may translate them.
    rename: Any = getattr(net, "own_names", None)
    saved = _best_names(saved, net) if rename is None else rename(saved)
    for name, part in net.named_modules():
        key, share = f"{name}.weight", getattr(part, "share", None)
        if callable(share) and key in saved:  # a table of which each rank keeps some rows
            saved[key] = share(saved[key])
    fitting = {k: v for k, v in saved.items() if k in own and own[k].shape == v.shape}
    if not any(k in fitting for k, _ in net.named_parameters()):
        raise ValueError(
            f"{path}: no tensor fits {type(net).__name__}; the file has {_shapes(saved)}, the "
            f"network {_shapes(own)}"
        )
    net.load_state_dict(fitting, strict=False)
    misfits = [
        f"{k} {tuple(saved[k].shape)} in the file, {tuple(v.shape)} here"
        for k, v in own.items()
        if k in saved and k not in fitting
    ]
    parts = [f"{len(fitting)} of {len(own)} tensors from {path}"]
    for what, names in (
        ("other shape", misfits),
        ("not in the file", [k for k in own if k not in saved]),
        ("not in the network", [k for k in saved if k not in own]),
    ):
        if names:
            parts.append(f"{what}: {_listed(names)}")
    return "; ".join(parts)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a file's tensors by name, without running code that it may contain."""
    shares = sorted(path.glob("*.safetensors"))  # as large published models have
    if not (path.is_file() or (path / ".metadata").is_file() or shares):
        raise FileNotFoundError(f"no file {path}")
    try:
        if shares:
            return {name: x for share in shares for name, x in read_state(share).items()}
        if path.is_dir():
            return load_verified(path)["state_dict"]
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds, and suggests running the file's code
        raise ValueError(f"{path} is truncated, or neither safetensors nor a state dict") from error
    for key in ("state_dict", "model_state_dict", "model", "module"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensor by name")
    return tensors


def _best_names(saved: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Remove the prefix, if any, with which most names are the network's."""
    own = net.state_dict().keys()
    renamed = [
        {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
        for prefix in PREFIXES
    ]
    return max(renamed, key=lambda names: len(names.keys() & own))


def _shapes(tensors: Mapping[str, Any]) -> str:
    return _listed([f"{name} {tuple(value.shape)}" for name, value in tensors.items()], shown=2)


def _listed(names: list[str], shown: int = SHOWN) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
