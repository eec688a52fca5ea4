"""Log-mel features of 16 kHz speech, batched, each utterance as if it were alone.

The chain is the reference's data pipeline: silence trimming, dither, pre-emphasis, power
spectrogram, mel filters, logarithm, normalisation per utterance and filter, frame splicing.

Letters: B batch, N audio samples (padded), T frames of 10 ms, F mel filters, S spliced frames.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.rnnt.sample_noise import normal_numbers

SAMPLE_RATE = 16_000
FFT_SIZE, WINDOW, STEP = 512, 320, 160
TRIM_WINDOW, TRIM_RATIO = 2048, 1e-6  # -60 dB in power
DITHER, PREEMPHASIS, LOG_FLOOR = 1e-5, 0.97, 1e-20
DITHER_STREAM = 1
HALF_BINS = FFT_SIZE // 2 + 1


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Keep features in float32: no autocast, and no TF32, whose errors drown a quiet filter.

    Args:
        device: The batch's device.

    Yields:
        Nothing.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class LogMel(nn.Module):
    """Turns a batch of waveforms into normalised log-mel features; it has nothing to train.

    Args:
        num_filters: Mel filters between 0 and 8000 Hz.

    Source:
        mlcommons/training @ 9947bdf2, rnn_speech_recognition/pytorch common/data/dali/pipeline.py
        and DALI 0.28's operator defaults. Differs: batched on the batch's device; dither comes
        from the sample's own seed.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, num_filters: int = 80) -> None:
        super().__init__()
        phase = 2 * math.pi * (torch.arange(WINDOW, dtype=torch.float64) + 0.5) / WINDOW
        self.register_buffer("window", (0.5 - 0.5 * phase.cos()).float(), persistent=False)
        self.register_buffer("filters", mel_filters(num_filters), persistent=False)

    @torch.no_grad()
    def forward(self, audio_BN: Tensor, lengths_B: Tensor, seed_B: Tensor) -> tuple[Tensor, Tensor]:
        """Features of each utterance, unaffected by its neighbours and by padding.

        Args:
            audio_BN: Waveforms in ``[-1, 1]``, float32, 16 kHz.
            lengths_B: int64 samples of each, in ``[1, N]``.
            seed_B: int64 seed of each sample's dither.

        Returns:
            features_BTF float32, 0 past an utterance's end, and the int64 number of frames of each.
        """
        audio_BN, lengths_B = trim_silence(audio_BN, lengths_B)
        noise_BN = normal_numbers(seed_B, audio_BN.shape[1], stream=DITHER_STREAM)
        audio_BN = torch.add(audio_BN, noise_BN, alpha=DITHER)
        frames_BTN, num_frames_B = cut_frames(preemphasise(audio_BN), lengths_B)
        spectrum = torch.fft.rfft(frames_BTN * self.window, n=FFT_SIZE)
        power_BTC = torch.view_as_real(spectrum).square().sum(-1)
        log_BTF = (power_BTC @ self.filters).clamp(min=LOG_FLOOR).log()
        return normalise(log_BTF, num_frames_B), num_frames_B


def mel_filters(num_filters: int) -> Tensor:
    """Triangular filters on the Slaney mel scale, each of unit area.

    Args:
        num_filters: Filters between 0 and 8000 Hz.

    Returns:
        filters_CF: float32, C = 257 frequency bins.
    """
    from torchaudio.functional import melscale_fbanks

    return melscale_fbanks(
        HALF_BINS, 0.0, SAMPLE_RATE / 2, num_filters, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )


def trim_silence(audio_BN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Cut what is quieter than the loudest 2048 samples by 60 dB off both ends.

    The power is a mean over 2048 samples at every position. A signal shorter than that, or one of
    zeros only, is kept whole.

    Args:
        audio_BN: Waveforms, float32, 0 past their ends.
        lengths_B: int64 samples of each, in ``[1, N]``.

    Returns:
        Trimmed waveforms, 0 past their ends, and their int64 lengths.
    """
    width = audio_BN.shape[1]
    if width <= TRIM_WINDOW:
        return audio_BN, lengths_B
    index_N = torch.arange(width, device=audio_BN.device)
    # float64: -60 dB of a sum over a whole utterance is lost in float32.
    energy_BN = F.pad(audio_BN.double().square_().cumsum_(1), (1, 0))
    power_BN = energy_BN[:, TRIM_WINDOW:] - energy_BN[:, :-TRIM_WINDOW]
    power_BN.masked_fill_(index_N[: power_BN.shape[1]] > (lengths_B - TRIM_WINDOW)[:, None], -1.0)
    loud_BN = (power_BN >= TRIM_RATIO * power_BN.amax(1, keepdim=True).clamp(min=0)).byte()
    begin_B = loud_BN.argmax(1)
    after_B = width - loud_BN.flip(1).argmax(1)
    # A signal shorter than one window has no position at all.
    whole_B = lengths_B < TRIM_WINDOW
    begin_B = torch.where(whole_B, 0, begin_B)
    trimmed_B = torch.where(whole_B, lengths_B, after_B - begin_B)
    index_N = index_N[: int(trimmed_B.max())]
    index_BN = (begin_B[:, None] + index_N).clamp_(max=width - 1)
    return audio_BN.gather(1, index_BN) * (index_N < trimmed_B[:, None]), trimmed_B


def preemphasise(audio_BN: Tensor) -> Tensor:
    """Raise high frequencies: ``y[t] = x[t] - 0.97 x[t - 1]``, the first sample its own neighbour.

    Args:
        audio_BN: Waveforms.

    Returns:
        Waveforms of the same shape.
    """
    before_BN = torch.cat((audio_BN[:, :1], audio_BN[:, :-1]), 1)
    return torch.sub(audio_BN, before_BN, alpha=PREEMPHASIS)


def cut_frames(audio_BN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Frames of 320 samples centred on every 160th, each end reflected at the utterance's own end.

    Only the middle 320 of the 512 samples of a transform lie under the window; where they stand in
    the transform changes the phase only, which the power spectrum does not see.

    Args:
        audio_BN: Waveforms; what lies past their ends is not read.
        lengths_B: int64 samples of each, in ``[1, N]``.

    Returns:
        Frames (B, T, 320), with copies of other samples past an utterance's last frame, and the
        int64 number of frames of each, ``1 + length // 160``.
    """
    half = WINDOW // 2
    frames = 1 + audio_BN.shape[1] // STEP
    padded_BN = F.pad(audio_BN, (half, half))
    edge_N = torch.arange(half, device=audio_BN.device)
    last_B1 = (lengths_B - 1)[:, None]
    padded_BN[:, :half] = audio_BN.gather(1, _fold(edge_N - half, last_B1))
    beyond_BN = lengths_B[:, None] + edge_N
    padded_BN.scatter_(1, beyond_BN + half, audio_BN.gather(1, _fold(beyond_BN, last_B1)))
    frames_BTN = padded_BN.unfold(1, WINDOW, STEP)[:, :frames]
    return frames_BTN, 1 + lengths_B // STEP


def _fold(index_BN: Tensor, last_B1: Tensor) -> Tensor:
    """Reflect an index at 0 and at the last sample, as often as needed."""
    index_BN = index_BN.abs() % (2 * last_B1).clamp(min=1)
    return torch.where(index_BN > last_B1, 2 * last_B1 - index_BN, index_BN).clamp(min=0)


def normalise(features_BTF: Tensor, num_frames_B: Tensor) -> Tensor:
    """Give every filter of every utterance mean 0 and population standard deviation 1 over time.

    Args:
        features_BTF: Features.
        num_frames_B: int64 frames of each utterance.

    Returns:
        features_BTF: The same shape; 0 past an utterance's end and in a filter that never changes.
    """
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
    """Join every ``frames`` neighbours into one frame.

    Args:
        features_BTF: Features, 0 past an utterance's end.
        num_frames_B: int64 frames of each utterance.
        frames: How many frames become one.

    Returns:
        spliced (B, S, frames * F), zeros past the end, and the int64 number of frames of each,
        rounded up.
    """
    B, T, num_filters = features_BTF.shape
    padded = F.pad(features_BTF, (0, 0, 0, -T % frames))
    spliced = padded.reshape(B, -1, frames * num_filters)
    return spliced, (num_frames_B + frames - 1) // frames
