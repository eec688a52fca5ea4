"""Passes over audio samples, compiled for CPUs; elsewhere tensor operations do the same.

On one core the resampling takes 0.2 of the time of the tensor operations, the search for silence
0.2. Imported only where needed, as numba takes half a second.

Letters: N audio samples of one utterance, P + 1 phases of a kernel, K its taps.
"""

import numpy as np
from numba import njit


# Sums in any order, which vector units need; NaN and infinity stay what they are.
@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def stretch(
    padded_N: np.ndarray, factor: float, kernel_PK: np.ndarray, stretched_N: np.ndarray
) -> None:
    """Write the input at j / factor for every output sample j, interpolated by a kernel.

    The input is preceded by half a kernel of zeros and followed by one and a half. Between two
    phases of the kernel the result is interpolated linearly.
    """
    phases, taps = len(kernel_PK) - 1, kernel_PK.shape[1]
    for j in range(len(stretched_N)):
        position = j / factor
        whole = int(position)
        phase = (position - whole) * phases
        below = int(phase)
        low = high = np.float32(0.0)
        for k in range(taps):
            sample = padded_N[whole + 1 + k]
            low += sample * kernel_PK[below, k]
            high += sample * kernel_PK[below + 1, k]
        stretched_N[j] = low + np.float32(phase - below) * (high - low)


@njit(cache=True, nogil=True)
def loud_range(audio_N: np.ndarray, window: int, ratio: float) -> tuple[int, int]:
    """Return start and end of the windows whose energy is at least a share of the loudest one's.

    Only for audio of at least a window.
    """
    energy = np.empty(len(audio_N) + 1)
    energy[0] = loudest = 0.0
    for i in range(len(audio_N)):
        energy[i + 1] = energy[i] + np.float64(audio_N[i]) * np.float64(audio_N[i])
        if i + 1 >= window:
            loudest = max(loudest, energy[i + 1] - energy[i + 1 - window])
    first, end = 0, len(audio_N)
    while energy[first + window] - energy[first] < ratio * loudest:
        first += 1
    while energy[end] - energy[end - window] < ratio * loudest:
        end -= 1
    return first, end
