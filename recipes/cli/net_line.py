"""One line before training: the network as it was built."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.run_record import num_parameters
from recipes.cli.net import Net


class NetLine(Callback):
    """Print the network, at once or, where it is built later, when training starts.

    Args:
        net: Has built the network, or will.
        module: The module that owns it.
    """

    def __init__(self, net: Net, module: L.LightningModule) -> None:
        self._net = net
        self._print(module)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._print(pl_module)

    def _print(self, module: L.LightningModule) -> None:
        if self._net.printed or "net" not in module._modules:
            return
        self._net.printed = True  # `speed` has several runs
        rank_zero_only(print)(f"net: {self._net.describe(num_parameters(module))}", flush=True)
