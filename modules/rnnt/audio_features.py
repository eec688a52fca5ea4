"""Log-mel features of 16 kHz speech, batched; neither neighbours nor padding affect an utterance.

The steps are the reference's: silence trimming, dither, pre-emphasis, power spectrogram, mel
filters, logarithm, normalisation per utterance and filter, frame splicing.

Letters: B batch, N audio samples (padded), T frames of 10 ms, F mel filters, S spliced frames.
Waveforms are float32 in ``[-1, 1]``; lengths and numbers of frames are int64, at least 1.

Source:
    mlcommons/training @ 9947bdf2, rnn_speech_recognition/pytorch common/data/dali/pipeline.py and
    DALI 0.28's operator defaults. Differs: batched on the batch's device; dither comes from the
    sample's own seed.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from modules.rnnt.sample_noise import normal_numbers

SAMPLE_RATE = 16_000
FFT_SIZE, WINDOW, STEP = 512, 320, 160
TRIM_WINDOW, TRIM_RATIO = 2048, 1e-6  # -60 dB in power
DITHER, PREEMPHASIS, LOG_FLOOR = 1e-5, 0.97, 1e-20
DITHER_STREAM = 1
HALF_BINS = FFT_SIZE // 2 + 1


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Disable autocast and TF32, whose rounding errors would mask a quiet filter."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class LogMel(nn.Module):
    """Compute normalised log-mel features with filters between 0 and 8000 Hz; no parameters."""

    window: Tensor
    filters: Tensor

    def __init__(self, num_filters: int = 80) -> None:
        super().__init__()
        phase = 2 * math.pi * (torch.arange(WINDOW, dtype=torch.float64) + 0.5) / WINDOW
        window = F.pad(0.5 - 0.5 * phase.cos(), (0, FFT_SIZE - WINDOW)).float()
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", mel_filters(num_filters), persistent=False)

    @torch.no_grad()
    def forward(self, audio_BN: Tensor, lengths_B: Tensor, seed_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return features_BTF, 0 past an utterance's end, and each utterance's frames."""
        audio_BN, lengths_B = trim_silence(audio_BN, lengths_B)
        noise_BN = normal_numbers(seed_B, audio_BN.shape[1], stream=DITHER_STREAM)
        audio_BN = torch.add(audio_BN, noise_BN, alpha=DITHER)
        frames_BTN, num_frames_B = cut_frames(preemphasise(audio_BN), lengths_B)
        spectrum = torch.fft.rfft(frames_BTN * self.window)
        # Two slices, as a sum over an axis of 2 takes four times as long.
        real, imaginary = torch.view_as_real(spectrum).unbind(-1)
        power_BTC = real.square().addcmul_(imaginary, imaginary)
        log_BTF = (power_BTC @ self.filters).clamp(min=LOG_FLOOR).log()
        return normalise(log_BTF, num_frames_B), num_frames_B


def mel_filters(num_filters: int) -> Tensor:
    """Return filters_CF: triangles of unit area on the Slaney mel scale, C = 257 bins."""
    from torchaudio.functional import melscale_fbanks

    return melscale_fbanks(
        HALF_BINS, 0.0, SAMPLE_RATE / 2, num_filters, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )


def trim_silence(audio_BN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Trim both ends where 2048 samples are 60 dB below the loudest; return waveforms and lengths.

    A signal of less than 2048 samples, or of zeros only, is kept whole.
    """
    if audio_BN.shape[1] <= TRIM_WINDOW:
        return audio_BN, lengths_B
    trim = _trim_on_cpu if audio_BN.device.type == "cpu" else _trim_by_tensors
    return trim(audio_BN, lengths_B)


@torch.compiler.disable
def _trim_on_cpu(audio_BN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Trim row by row in a compiled loop."""
    from modules.rnnt.cpu_loops import loud_range

    rows = [row_N[:length] for row_N, length in zip(audio_BN, lengths_B.tolist(), strict=True)]
    for i, row_N in enumerate(rows):
        if len(row_N) >= TRIM_WINDOW:
            rows[i] = row_N[slice(*loud_range(row_N.numpy(), TRIM_WINDOW, TRIM_RATIO))]
    return pad_sequence(rows, batch_first=True), torch.tensor([len(row_N) for row_N in rows])


def _trim_by_tensors(audio_BN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Trim all rows together."""
    width = audio_BN.shape[1]
    index_N = torch.arange(width, device=audio_BN.device)
    # In float64, as -60 dB of a sum over a whole utterance vanishes in float32.
    energy_BN = F.pad(audio_BN.double().square_().cumsum_(1), (1, 0))
    power_BN = energy_BN[:, TRIM_WINDOW:] - energy_BN[:, :-TRIM_WINDOW]
    power_BN.masked_fill_(index_N[: power_BN.shape[1]] > (lengths_B - TRIM_WINDOW)[:, None], -1.0)
    loud_BN = (power_BN >= TRIM_RATIO * power_BN.amax(1, keepdim=True).clamp(min=0)).byte()
    begin_B = loud_BN.argmax(1)
    after_B = width - loud_BN.flip(1).argmax(1)
    # A signal shorter than the window has no window position at all.
    whole_B = lengths_B < TRIM_WINDOW
    begin_B = torch.where(whole_B, 0, begin_B)
    trimmed_B = torch.where(whole_B, lengths_B, after_B - begin_B)
    index_N = index_N[: int(trimmed_B.max())]
    index_BN = (begin_B[:, None] + index_N).clamp_(max=width - 1)
    return audio_BN.gather(1, index_BN) * (index_N < trimmed_B[:, None]), trimmed_B


def preemphasise(audio_BN: Tensor) -> Tensor:
    """Compute ``y[t] = x[t] - 0.97 x[t - 1]`` with ``x[-1] = x[0]``."""
    before_BN = torch.cat((audio_BN[:, :1], audio_BN[:, :-1]), 1)
    return torch.sub(audio_BN, before_BN, alpha=PREEMPHASIS)


def cut_frames(audio_BN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return frames (B, T, 512), of which 320 count, and each utterance's frames.

    The 320 are centred on every 160th sample, and both ends are reflected at the utterance's own
    ends; the others, and frames past the last, hold any samples.
    """
    # The window covers only the middle 320 of a transform's 512 samples; their position in the
    # transform changes the phase alone, which the power spectrum does not contain.
    half = WINDOW // 2
    frames = 1 + audio_BN.shape[1] // STEP
    padded_BN = F.pad(audio_BN, (half, half + FFT_SIZE - WINDOW))
    edge_N = torch.arange(half, device=audio_BN.device)
    last_B1 = (lengths_B - 1)[:, None]
    padded_BN[:, :half] = audio_BN.gather(1, _fold(edge_N - half, last_B1))
    beyond_BN = lengths_B[:, None] + edge_N
    padded_BN.scatter_(1, beyond_BN + half, audio_BN.gather(1, _fold(beyond_BN, last_B1)))
    frames_BTN = padded_BN.unfold(1, FFT_SIZE, STEP)[:, :frames]
    return frames_BTN, 1 + lengths_B // STEP


def _fold(index: Tensor, last_B1: Tensor) -> Tensor:
    """Reflect an index (N,) or (B, N) at 0 and at the last sample, as often as needed."""
    index_BN = index.abs() % (2 * last_B1).clamp(min=1)
    return torch.where(index_BN > last_B1, 2 * last_B1 - index_BN, index_BN).clamp(min=0)


def normalise(features_BTF: Tensor, num_frames_B: Tensor) -> Tensor:
    """Normalise every filter of an utterance over time; 0 past its end and in constant filters."""
    index_T = torch.arange(features_BTF.shape[1], device=features_BTF.device)
    valid_BT1 = (index_T < num_frames_B[:, None])[..., None]
    count_B11 = num_frames_B[:, None, None]
    mean_B1F = (features_BTF * valid_BT1).sum(1, keepdim=True) / count_B11
    centred_BTF = (features_BTF - mean_B1F) * valid_BT1
    variance_B1F = centred_BTF.square().sum(1, keepdim=True) / count_B11
    return centred_BTF * torch.where(variance_B1F > 0, variance_B1F.rsqrt(), 0.0)


def splice_frames(
    features_BTF: Tensor, num_frames_B: Tensor, *, frames: int = 3
) -> tuple[Tensor, Tensor]:
    """Concatenate every ``frames`` neighbours into one, rounding an utterance's frames up."""
    B, T, num_filters = features_BTF.shape
    padded = F.pad(features_BTF, (0, 0, 0, -T % frames))
    spliced = padded.reshape(B, -1, frames * num_filters)
    return spliced, (num_frames_B + frames - 1) // frames
