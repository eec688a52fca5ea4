"""Builds models of the `transformers` library for the adapters that let them replace a network."""

from pathlib import Path
from typing import Any


def build_transformers_model(
    model: str,
    *,
    config: dict[str, Any] | None = None,
    pretrained: Path | None = None,
    vocab_size: int | None = None,
) -> Any:
    """Build a model with random weights, or read one.

    Args:
        model: Name of a class of `transformers`.
        config: Settings of its configuration; the rest are the library's defaults.
        pretrained: Directory with ``config.json`` and weights to start from instead.
        vocab_size: Words, where neither ``config`` nor ``pretrained`` says.

    Returns:
        The model, in training mode.

    Raises:
        FileNotFoundError: If the directory has no ``config.json``.
        ValueError: If transformers is not installed, lacks the class, or the class's configuration
            has no such setting.
    """
    chosen = _model_class(model)
    settings = dict(config or {})
    if vocab_size is not None and pretrained is None:
        settings.setdefault("vocab_size", vocab_size)
    known = chosen.config_class()
    if unknown := sorted(name for name in settings if not hasattr(known, name)):
        raise ValueError(
            f"model.net.config: {chosen.config_class.__name__} has no {', '.join(unknown)}"
        )
    if pretrained is None:
        return chosen(chosen.config_class(**(_special_words(known, settings) | settings)))
    if not (Path(pretrained) / "config.json").is_file():
        raise FileNotFoundError(
            f"{pretrained}: no config.json; model.net.pretrained must be a directory with one"
        )
    # The library returns it in evaluation mode, in which it would train without dropout.
    return chosen.from_pretrained(pretrained, local_files_only=True, **settings).train()


def _special_words(known: Any, settings: dict[str, Any]) -> dict[str, int | None]:
    """Override special words that lie beyond the vocabulary: the data has its own."""
    usual = known.to_dict()
    size = settings.get("vocab_size", usual.get("vocab_size"))
    beyond = [
        name
        for name, value in usual.items()
        if name.endswith("_token_id") and isinstance(value, int) and size and value >= size
    ]
    return {name: 0 if name == "pad_token_id" else None for name in beyond}


def _model_class(name: str) -> Any:
    """Import a class of the library here, as that takes seconds."""
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            f"model.net: {name} needs the transformers library; pip install transformers"
        ) from error
    chosen = getattr(transformers, name, None)
    if chosen is None or not hasattr(chosen, "config_class"):
        raise ValueError(f"model.net.model is {name!r}, which is not a model of transformers")
    return chosen
