"""The feature chain against plain numpy, one utterance at a time, and its invariances."""

import statistics
import time

import numpy as np
import pytest
import torch
from torchaudio.functional import preemphasis, resample
from torchaudio.transforms import MelSpectrogram, Resample

from modules.rnnt import audio_features, speed_perturbation
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


@pytest.mark.parametrize("threads", [1, 3])
def test_loops_equal_the_tensor_operations(threads, monkeypatch):
    signals = [sine_with_silence(n, n) for n in (9000, 5200, 12345, 2048, 2047, 100, 1)]
    audio, lengths = batch_of(signals)
    audio[1, 5200:] = 7.0  # padding that must not count
    click = audio.clone()
    click[0, 4000] = 1e5  # so loud that all but the windows around it are silent
    factors = torch.linspace(0.85, 1.15, 7, dtype=torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        stretched, trimmed = change_speed(audio, lengths, factors), trim_silence(click, lengths)
        without_loops(monkeypatch)
        wanted = change_speed(audio, lengths, factors)
        torch.testing.assert_close(stretched, wanted, rtol=0, atol=1e-6)
        wanted, counts = trim_silence(click, lengths)
        assert torch.equal(trimmed[1], counts)
        assert torch.equal(trimmed[0], wanted)
        assert int(counts[0]) == 4095
    finally:
        torch.set_num_threads(before)


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
        np.testing.assert_array_equal(frames[0, j, :320], pad[160 * j : 160 * j + 320])


def without_loops(monkeypatch):
    """Compute on the CPU as on other devices: by tensor operations."""
    by_tensors = speed_perturbation._change_by_tensors
    monkeypatch.setattr(speed_perturbation, "_change_on_cpu", by_tensors)
    monkeypatch.setattr(audio_features, "_trim_on_cpu", audio_features._trim_by_tensors)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("factor", [0.85, 0.9, 0.99999, 1.0, 1.0371, 1.15])
def test_speed_change_equals_the_kernel_written_out(factor, compiled, monkeypatch):
    if not compiled:
        without_loops(monkeypatch)
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


def murmur(seed, counter, stream):
    """The hash in Python's own integers."""

    def mix(word):
        word = (word ^ word >> 16) * 0x85EBCA6B % 2**32
        word = (word ^ word >> 13) * 0xC2B2AE35 % 2**32
        return word ^ word >> 16

    key = mix(mix(seed % 2**32 ^ stream * 0x9E3779B9 % 2**32) ^ seed >> 32)
    return mix(mix(counter * 0x9E3779B9 % 2**32) ^ key)


def test_random_numbers_are_the_hash_of_seed_stream_and_counter():
    seeds = [0, 5, 2**31, 2**32 - 1, 2**62 + 3, 2**63 - 1]
    wanted = [[murmur(seed, n, 201) / 2**32 for n in range(50)] for seed in seeds]
    assert uniform_numbers(torch.tensor(seeds), 50, stream=201).tolist() == wanted
    drawn = normal_numbers(torch.tensor(seeds), 5, stream=4).double().numpy()
    for row, seed in enumerate(seeds):
        radius, angle = (
            np.array([(murmur(seed, n, 2 * 4 + k) >> 8) + add for n in range(3)]) / 2**24
            for k, add in ((1, 1), (2, 0))
        )
        wanted = np.sqrt(-2 * np.log(radius)) * np.exp(2j * np.pi * angle)
        wanted = np.stack((wanted.real, wanted.imag), -1).flatten()[:5]
        np.testing.assert_allclose(drawn[row], wanted, atol=2e-6)


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


def median_ratio(ours, theirs, rounds=15):
    """Processor time of neighbours in time: the ratio of each pair, then their median."""
    ratios = []
    for _ in range(rounds):
        moments = [time.process_time()]
        for function in (ours, theirs):
            function()
            moments.append(time.process_time())
        ratios.append((moments[1] - moments[0]) / (moments[2] - moments[1]))
    return statistics.median(ratios[2:])


@pytest.mark.speed
def test_speed_change_against_torchaudios_resampling():
    audio, lengths = 0.1 * torch.randn(8, 17600), torch.full((8,), 17600)
    factors = torch.full((8,), 1.081, dtype=torch.float64)
    kernel = {"lowpass_filter_width": 16, "rolloff": 1.0}
    one_factor = Resample(1000, 1081, **kernel)  # its kernel computed beforehand
    ours = lambda: change_speed(audio, lengths, factors)  # noqa: E731
    fixed = median_ratio(ours, lambda: one_factor(audio))
    own = median_ratio(ours, lambda: [resample(row, 1000, 1081, **kernel) for row in audio], 5)
    print(f"speed perturbation / torchaudio: {fixed:.2f}; a factor per utterance: {own:.2f}")
    assert fixed <= 1.3
    assert own <= 0.2


class TorchaudioFeatures:
    """The same features of torchaudio's parts, without trimming and with noise of one generator."""

    def __init__(self):
        sizes = {"n_fft": 512, "win_length": 320, "hop_length": 160, "n_mels": 80}
        self.mel = MelSpectrogram(16000, norm="slaney", mel_scale="slaney", **sizes)

    def __call__(self, audio_BN, lengths_B):
        audio_BN = preemphasis(audio_BN + 1e-5 * torch.randn_like(audio_BN))
        log_BFT = self.mel(audio_BN).clamp(min=1e-20).log()
        frames_B11 = (1 + lengths_B // 160)[:, None, None]
        valid = torch.arange(log_BFT.shape[2]) < frames_B11
        centred = (log_BFT - (log_BFT * valid).sum(2, keepdim=True) / frames_B11) * valid
        return centred * (centred.square().sum(2, keepdim=True) / frames_B11).rsqrt()


@pytest.mark.speed
def test_features_against_torchaudios():
    audio, lengths = 0.1 * torch.randn(32, 192000), torch.linspace(150000, 192000, 32).long()
    seeds, features, theirs = torch.arange(32), LogMel(), TorchaudioFeatures()
    ratio = median_ratio(
        lambda: features(audio, lengths, seeds), lambda: theirs(audio, lengths), rounds=9
    )
    print(f"log-mel features / torchaudio's pipeline: {ratio:.2f}")
    assert ratio <= 1.2
