"""Networks as a researcher would bring them, named by the tests of --model.net."""

import functools
import importlib
from typing import Any

import torch
from torch import nn


class Wide(nn.Module):
    """Has an argument of the same name as each recipe's own network, with other defaults."""

    def __init__(
        self,
        width: int = 48,
        filters: tuple[int, ...] = (4, 4, 4, 4, 4),
        num_layers: int = 9,
        hidden_size: int = 24,
        encoder_size: int = 20,
        embedding_width: int = 6,
        blocks: int = 7,
        *,
        num_classes: int = 1000,
        num_labels: int = 1000,
        vocab_size: int = 1000,
        table_sizes: tuple[int, ...] = (1000,),
        size: int = 1000,
    ) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.num_labels = num_labels

    def forward(self, *inputs: Any) -> Any:
        return inputs


class Classifier(nn.Module):
    """Gives one logit per class; names its arguments in its own way."""

    def __init__(self, n_classes, img_size=(224, 224), width=8):
        super().__init__()
        self.img_size = img_size
        self.conv = nn.Conv2d(3, width, 3, stride=2)
        self.fc = nn.Linear(width, n_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert image.shape[2:] == torch.Size(self.img_size), "a net for one size"
        return self.fc(self.conv(image).mean((2, 3)))


def build(name, **settings):
    """A builder without annotations that passes on what it gets, as timm.create_model does."""
    return {"classifier": Classifier}[name](**settings)


def pretend(num_classes=5):
    return {"weights": num_classes}


partial = functools.partial(Classifier, width=3)
ready = Classifier(3)


class NeedsPackage(nn.Module):
    """Imports an optional package late, as some of MONAI's networks do."""

    def __init__(self) -> None:
        super().__init__()
        import package_that_nobody_has  # noqa: F401


def module_class(stem):
    """Return a subclass of a recipe's module with half its loss, made once for each recipe."""
    module = importlib.import_module(f"recipes.{stem}").BENCHMARK.module_class()

    class Halved(module):
        def __init__(self, *, share: float = 0.5, **settings: Any) -> None:
            super().__init__(**settings)
            self.share = share

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.share * super().training_step(batch, batch_idx)

    return Halved


def __getattr__(name: str) -> Any:
    """Give ``Halved_resnet`` and the like only to those who name them: each imports its recipe."""
    if name.startswith("Halved_"):
        globals()[name] = module_class(name.removeprefix("Halved_"))
        return globals()[name]
    raise AttributeError(name)
