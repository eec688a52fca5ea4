"""Instance normalisation that keeps the layout of its input.

Shapes: B batch, C channels, D H W voxels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class InstanceNorm3d(nn.InstanceNorm3d):
    """torch's own, with the same weights and numbers, also for ``channels_last_3d``.

    torch's would copy such an input to the contiguous layout, and so would each convolution after
    it, back: 41 copies of five-dimensional tensors per training step of the closed network.
    """

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        """Normalise each channel of each volume; the layout of the result is the input's."""
        channels_last = x_BCDHW.is_contiguous(memory_format=torch.channels_last_3d)
        if not channels_last or x_BCDHW.is_contiguous() or self.track_running_stats:
            return super().forward(x_BCDHW)
        if torch.compiler.is_compiling():
            return self._in_one_expression(x_BCDHW)
        # The batch norm of one volume is its instance norm, and has kernels for either layout.
        settings: Any = {"weight": self.weight, "bias": self.bias, "eps": self.eps}
        volumes = [
            F.batch_norm(one, None, None, training=True, **settings) for one in x_BCDHW.split(1)
        ]
        return volumes[0] if len(volumes) == 1 else torch.cat(volumes)

    def _in_one_expression(self, x_BCDHW: Tensor) -> Tensor:
        """Normalise all volumes at once, for a compiler that fuses it in any layout.

        It would unroll a loop: 61 kernels for two norms of 14 volumes instead of 7.
        """
        wide_BCDHW = x_BCDHW.to(torch.promote_types(x_BCDHW.dtype, torch.float32))
        variance, mean = torch.var_mean(wide_BCDHW, (2, 3, 4), correction=0, keepdim=True)
        result_BCDHW = (wide_BCDHW - mean) * (variance + self.eps).rsqrt()
        if self.affine:
            scale, shift = (each.view(-1, 1, 1, 1) for each in (self.weight, self.bias))
            result_BCDHW = result_BCDHW * scale + shift
        return result_BCDHW.to(x_BCDHW.dtype)
