"""Speed perturbation of audio by any real factor, batched: DALI's resampler.

One compiled loop on CPUs, 0.2 of the time of the tensor operations that other devices use. At an
exact factor far faster than ``torchaudio.functional.speed``, and the reference's filter.

Letters: B batch, N samples of a padded signal, P output samples of a piece, K 33 kernel taps (32 in
the loop, which counts from the sample before, not from the nearest).

Source:
    NVIDIA DALI 0.28, dali/kernels/audio/resampling (HannWindow and ResamplingWindow), as set by
    mlcommons/training @ 9947bdf2, rnn_speech_recognition common/data/dali/pipeline.py. Differs: the
    kernel is computed or, on CPUs, looked up in a table whose error no float32 result shows.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

LOBES = 16  # of the kernel, on each side: DALI's quality 50
TAPS = 2 * LOBES + 1
PHASES = 2048  # of the table: linear interpolation between them is exact to 1e-7
# Output samples computed at once: the intermediate, K times as large, should stay in a CPU's
# cache, or occupy a GPU without exhausting its memory.
PIECE = {"cpu": 8192, "cuda": 2**22}


def change_speed(audio_BN: Tensor, lengths_B: Tensor, factors_B: Tensor) -> tuple[Tensor, Tensor]:
    """Stretch each signal by its factor, above 1 to a longer and lower one; round lengths up.

    Output sample j is the Hann-windowed sinc interpolation of the input at j / factor, 0 past the
    end. The cut-off is always the input's, so a shortened signal aliases its highest frequencies.
    """
    out_lengths_B = torch.ceil(lengths_B * factors_B).long()
    audio_BN = audio_BN * (
        torch.arange(audio_BN.shape[1], device=audio_BN.device) < lengths_B[:, None]
    )
    # Zeros on both sides keep a kernel inside that is centred in the signal or one sample past it.
    padded_BN = torch.nn.functional.pad(audio_BN, (LOBES, LOBES + 1))
    change = _change_on_cpu if audio_BN.device.type == "cpu" else _change_by_tensors
    return change(padded_BN, lengths_B, factors_B, out_lengths_B), out_lengths_B


@torch.compiler.disable
def _change_on_cpu(
    padded_BN: Tensor, lengths_B: Tensor, factors_B: Tensor, out_lengths_B: Tensor
) -> Tensor:
    """Stretch rows in a compiled loop, on as many threads as torch uses."""
    from modules.rnnt.cpu_loops import stretch

    counts = out_lengths_B.tolist()
    out_BN = np.zeros((len(counts), max(counts)), np.float32)
    rows = [row_N[:count] for row_N, count in zip(out_BN, counts, strict=True)]
    kernels = [_kernel()] * len(rows)
    arguments = (padded_BN.float().numpy(), factors_B.tolist(), kernels, rows)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        # Without threads where there is nothing to share: to start one takes as long as a row.
        alone = torch.get_num_threads() == 1 or len(rows) == 1
        list((map if alone else threads.map)(stretch, *arguments))
    return torch.from_numpy(out_BN)


@cache
def _kernel() -> np.ndarray:
    """Tabulate kernel_PK: the weights of 32 samples around a position between the middle two."""
    after_P1 = np.arange(PHASES + 1)[:, None] / PHASES
    distance_PK = np.arange(1 - LOBES, LOBES + 1) - after_P1
    return (np.sinc(distance_PK) * (1 + np.cos(np.pi / LOBES * distance_PK)) / 2).astype(np.float32)


def _change_by_tensors(
    padded_BN: Tensor, lengths_B: Tensor, factors_B: Tensor, out_lengths_B: Tensor
) -> Tensor:
    """Stretch all rows together, in pieces."""
    width = int(out_lengths_B.max())
    stride = padded_BN.shape[1]
    windows = padded_BN.flatten().unfold(0, TAPS, 1)
    index_N = torch.arange(width, device=padded_BN.device, dtype=torch.float64)
    out_BN = padded_BN.new_zeros((len(padded_BN), width))
    rows = max(1, PIECE.get(padded_BN.device.type, PIECE["cpu"]) // width)
    for first in range(0, len(padded_BN), rows):
        part = slice(first, first + rows)
        position_BN = index_N / factors_B[part, None]
        row_B1 = torch.arange(len(padded_BN), device=padded_BN.device)[part, None]
        # Positions past the end would read the next signal; their samples are zeroed below.
        centre_BN = position_BN.round().minimum(lengths_B[part, None])
        offset_BN = (position_BN - centre_BN).clamp(-0.5, 0.5)
        start_BN = centre_BN.long() + row_B1 * stride
        out_BN[part] = _interpolate(windows, start_BN.flatten(), offset_BN.flatten()).view(
            start_BN.shape
        )
    return out_BN * (index_N < out_lengths_B[:, None])


def _interpolate(windows_NK: Tensor, starts: Tensor, offsets: Tensor) -> Tensor:
    """Interpolate in pieces; positions lie ``offset`` samples past the kernel's centre tap."""
    size = PIECE.get(windows_NK.device.type, PIECE["cpu"])
    pieces = [
        _weigh(windows_NK.index_select(0, start_P), offset_P.float())
        for start_P, offset_P in zip(starts.split(size), offsets.split(size), strict=True)
    ]
    return torch.cat(pieces)


def _weigh(window_PK: Tensor, offset_P: Tensor) -> Tensor:
    """Sum samples times h(k - offset) with h(u) = sinc(u) (1 + cos(pi u / 16)) / 2."""
    # sin(pi (k - f)) is a sign times sin(pi f), and cos(pi (k - f) / 16) splits by the addition
    # theorem: only 1 / (k - f) depends on both tap and position, and the rest is one matrix product
    # with three columns.
    # Too close to 0 for any float32 result to show, so that 1 / (k - f) stays finite.
    offset_P = torch.where(offset_P.abs() < 1e-7, 1e-7, offset_P)
    tap_K = torch.arange(-LOBES, LOBES + 1, device=offset_P.device, dtype=torch.float32)
    sign_K = 1 - 2 * (tap_K % 2)
    angle_K = math.pi / LOBES * tap_K
    columns_K3 = torch.stack((sign_K, sign_K * angle_K.cos(), sign_K * angle_K.sin()), 1)
    window_PK = window_PK.div_(tap_K - offset_P[:, None])
    # One of the two outermost taps always lies beyond the kernel's 16 lobes.
    window_PK[:, 0] *= offset_P <= 0
    window_PK[:, -1] *= offset_P >= 0
    sums_P3 = window_PK @ columns_K3
    angle_P = math.pi / LOBES * offset_P
    hann = sums_P3[:, 0] + angle_P.cos() * sums_P3[:, 1] + angle_P.sin() * sums_P3[:, 2]
    return hann * torch.sin(-math.pi * offset_P) / (2 * math.pi)
