"""The feature chain against plain numpy, one utterance at a time, and its invariances."""

import time

import numpy as np
import pytest
import torch

from modules.rnnt.audio_features import LogMel, cut_frames, mel_filters, splice_frames, trim_silence
from modules.rnnt.sample_noise import normal_numbers, uniform_numbers
from modules.rnnt.spec_augment import spec_augment
from modules.rnnt.speed_perturbation import change_speed


def numpy_features(audio, noise):
    """Section 2 of the reference's chain in float64, without any of our code but the filters."""
    n = len(audio)
    window = min(2048, n)
    power = np.convolve(audio.astype(np.float64) ** 2, np.ones(window) / window, "valid")
    loud = np.flatnonzero(power >= 1e-6 * power.max())
    x = audio[loud[0] : loud[-1] + window].astype(np.float64)
    x = x + 1e-5 * noise[: len(x)]
    y = np.concatenate([[x[0] - 0.97 * x[0]], x[1:] - 0.97 * x[:-1]])
    padded = np.pad(y, 256, mode="reflect")
    hann = 0.5 * (1 - np.cos(2 * np.pi * (np.arange(320) + 0.5) / 320))
    weights = np.zeros(512)
    weights[96:416] = hann
    frames = 1 + len(y) // 160
    spectra = [np.fft.rfft(padded[160 * j : 160 * j + 512] * weights) for j in range(frames)]
    mel = (np.abs(np.array(spectra)) ** 2) @ mel_filters(80).double().numpy()
    log = np.log(np.maximum(mel, 1e-20))
    return (log - log.mean(0)) / log.std(0)


def sine_with_silence(length=9000, seed=0):
    rng = np.random.default_rng(seed)
    audio = 0.3 * np.sin(2 * np.pi * 440 * np.arange(length) / 16000)
    audio += 0.02 * rng.standard_normal(length)
    audio[:3000] = 0
    audio[-1500:] = 0
    return audio.astype(np.float32)


def batch_of(signals):
    lengths = torch.tensor([len(s) for s in signals])
    padded = torch.zeros(len(signals), int(lengths.max()))
    for row, signal in zip(padded, signals, strict=True):
        row[: len(signal)] = torch.from_numpy(signal)
    return padded, lengths


@pytest.mark.parametrize("length", [9000, 6001])
def test_features_equal_plain_numpy(length):
    audio = sine_with_silence(length)
    seed = torch.tensor([7])
    features, frames = LogMel()(*batch_of([audio]), seed)
    noise = normal_numbers(seed, length, stream=1)[0].double().numpy()
    wanted = numpy_features(audio, noise)
    assert int(frames) == len(wanted)
    np.testing.assert_allclose(features[0].numpy(), wanted, atol=2e-3)


def test_features_of_an_utterance_do_not_depend_on_its_batch():
    signals = [sine_with_silence(n, n) for n in (9000, 5200, 3600, 700, 100)]
    seeds = torch.arange(5)
    together, frames = LogMel()(*batch_of(signals), seeds)
    for row, signal in enumerate(signals):
        alone, count = LogMel()(*batch_of([signal]), seeds[row : row + 1])
        assert int(count) == int(frames[row])
        torch.testing.assert_close(together[row, :count], alone[0], atol=2e-4, rtol=1e-4)
        assert not together[row, int(count) :].any()


def test_features_have_mean_0_and_population_deviation_1():
    features, _ = LogMel()(*batch_of([sine_with_silence()]), torch.tensor([1]))
    torch.testing.assert_close(features[0].mean(0), torch.zeros(80), atol=1e-4, rtol=0)
    torch.testing.assert_close(features[0].std(0, correction=0), torch.ones(80), atol=1e-4, rtol=0)


def test_silence_is_cut_at_both_ends_only():
    tone = np.ones(4000, dtype=np.float32)
    audio = np.concatenate([np.zeros(5000), tone, np.zeros(100), tone, np.zeros(6000)])
    trimmed, lengths = trim_silence(*batch_of([audio.astype(np.float32)]))
    # The first window that holds one sample of the tone is loud enough, so 2047 zeros stay.
    assert int(lengths) == 2047 + 8100 + 2047
    np.testing.assert_array_equal(trimmed[0], audio[5000 - 2047 : 5000 + 8100 + 2047])


@pytest.mark.parametrize("length", [1, 100, 2047, 2048, 4000])
def test_silence_only_or_short_audio_is_kept_whole(length):
    audio = np.zeros(length, dtype=np.float32)
    assert int(trim_silence(*batch_of([audio]))[1]) == length
    click = audio.copy()
    click[-1] = 1.0
    if length < 2048:
        assert int(trim_silence(*batch_of([click]))[1]) == length


@pytest.mark.parametrize("length", [1, 2, 159, 160, 161, 1000])
def test_frames_of_any_length_are_reflected(length):
    audio = torch.arange(1.0, length + 1)[None]
    frames, count = cut_frames(audio, torch.tensor([length]))
    assert int(count) == 1 + length // 160 == frames.shape[1]
    pad = np.pad(audio[0].numpy(), 160, mode="reflect" if length > 1 else "edge")
    for j in range(int(count)):
        np.testing.assert_array_equal(frames[0, j], pad[160 * j : 160 * j + 320])


@pytest.mark.parametrize("factor", [0.85, 0.9, 0.99999, 1.0, 1.0371, 1.15])
def test_speed_change_equals_the_kernel_written_out(factor):
    torch.manual_seed(1)
    audio, lengths = torch.randn(2, 700), torch.tensor([700, 431])
    out, out_lengths = change_speed(
        audio, lengths, torch.tensor([factor, factor], dtype=torch.float64)
    )
    for row, n in enumerate(lengths.tolist()):
        count = int(np.ceil(n * factor))
        assert int(out_lengths[row]) == count
        u = np.arange(n)[None] - np.arange(count)[:, None] / factor
        kernel = np.sinc(u) * (1 + np.cos(np.pi * u / 16)) / 2 * (np.abs(u) <= 16)
        wanted = kernel @ audio[row, :n].double().numpy()
        np.testing.assert_allclose(out[row, :count], wanted, atol=5e-6)
        assert not out[row, count:].any()


def test_speed_above_1_makes_a_tone_longer_and_lower():
    tone = torch.sin(2 * np.pi * 1000 * torch.arange(16000) / 16000)[None]
    out, lengths = change_speed(
        tone, torch.tensor([16000]), torch.tensor([1.1], dtype=torch.float64)
    )
    assert int(lengths) == 17600
    peak = torch.fft.rfft(out[0, :16000]).abs().argmax()
    assert int(peak) == 909


def test_splicing_joins_three_frames_and_pads_with_zeros():
    features = torch.arange(1.0, 9.0).reshape(1, 4, 2)
    spliced, lengths = splice_frames(features, torch.tensor([4]))
    assert spliced.tolist() == [[[1, 2, 3, 4, 5, 6], [7, 8, 0, 0, 0, 0]]]
    assert int(lengths) == 2


def test_random_numbers_depend_on_the_seed_only():
    seeds = torch.tensor([5, 2**62 + 3, 5, 6])
    for numbers in (uniform_numbers, normal_numbers):
        drawn = numbers(seeds, 9, stream=3)
        assert torch.equal(drawn[0], drawn[2])
        assert torch.equal(drawn[1:2], numbers(seeds[1:2], 9, stream=3))
        assert torch.equal(drawn[:, :4], numbers(seeds, 4, stream=3))
        assert not torch.equal(drawn[0], drawn[3])
        assert not torch.equal(drawn, numbers(seeds, 9, stream=4))


def test_random_numbers_have_the_right_distributions():
    scipy = pytest.importorskip("scipy.stats")
    seeds = torch.arange(40)
    uniform = uniform_numbers(seeds, 2000, stream=1).flatten().numpy()
    normal = normal_numbers(seeds, 2000, stream=1).flatten().numpy()
    assert scipy.kstest(uniform, "uniform").pvalue > 1e-3
    assert scipy.kstest(normal, "norm").pvalue > 1e-3
    for drawn in (uniform - 0.5, normal):
        grid = drawn.reshape(40, 2000)
        assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02
        assert np.abs(np.corrcoef(grid) - np.eye(40)).max() < 0.12


def masked(features_shape, frames, count=400, **settings):
    features = torch.ones(count, *features_shape)
    return spec_augment(features, torch.full((count,), frames), torch.arange(count), **settings)


def test_spec_augment_never_reaches_the_last_filter_and_frame():
    out = masked((300, 80), 300)
    assert out[:, -1].any(1).all()
    assert out[:, :, -1].any(1).all()
    assert not out[:, 0].all()


def test_spec_augment_widths_follow_the_utterance_and_places_the_batch():
    only_time = masked((1000, 4), 100, num_freq_masks=0, num_time_masks=1)
    widths = (only_time[:, :, 0] == 0).sum(1)
    assert set(widths.tolist()) == {0, 1, 2, 3}
    starts = (only_time[:, :, 0] == 0).int().argmax(1)[widths > 0]
    assert starts.max() > 900  # in the padding of an utterance of 100 frames
    only_freq = masked((10, 80), 10, num_time_masks=0, num_freq_masks=1)
    widths = (only_freq[:, 0] == 0).sum(1)
    assert set(widths.tolist()) == set(range(21))


def test_spec_augment_without_masks_changes_nothing():
    assert masked((20, 8), 20, num_freq_masks=0, num_time_masks=0).all()


@pytest.mark.speed
@pytest.mark.slow
def test_features_are_300_times_faster_than_speech():
    audio = torch.randn(4, 16000 * 12) * 0.1
    lengths, seeds, features = torch.full((4,), 16000 * 12), torch.arange(4), LogMel()
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        features(audio, lengths, seeds)
        seconds.append(time.perf_counter() - start)
    speed = 48 / min(seconds)
    print(f"features: {speed:.0f} times real time on one core")
    assert speed >= 300
