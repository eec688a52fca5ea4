"""A small spoken corpus in LibriSpeech's raw layout: a whistled language of twelve words.

Every letter is a chord of three tones out of eight that lie further apart than speed perturbation
moves them, so that neither a change of speed nor a masked band turns one letter into another.
Speakers differ in pitch, in how loud each tone of a chord is and in how fast they speak. Each
utterance is a function of its subset and number alone; sentences of dev-clean are in no training
subset.
"""

from pathlib import Path

import numpy as np

VERSION = "1"  # raise it whenever the written audio or text changes
SAMPLE_RATE = 16_000
PARAMETERS = {
    "train-clean-100": 128,
    "train-clean-360": 128,
    "train-other-500": 128,
    "dev-clean": 48,
}
SPEAKERS = {"train-clean-100": 3, "train-clean-360": 3, "train-other-500": 3, "dev-clean": 4}
STREAM = 20193  # keeps these random numbers apart from every other use of an utterance's number

LETTERS = "AEILMOST"
WORDS = ("ALE", "EMO", "ILA", "LIT", "MAS", "OLE", "SAT", "TEM", "LOS", "MIO", "TOE", "SIM")
LOWEST_HZ, SPACING = 260.0, 1.42
CHORD = (0, 1, 3)
TONE_AMPLITUDE, NOISE_SIGMA = 0.15, 0.003
LETTER_SECONDS, PAUSE_SECONDS, LEAD_SECONDS = (0.100, 0.137), (0.050, 0.087), (0.025, 0.100)
PITCH, LOUDNESS, RATE = (0.98, 1.02), (0.7, 1.3), (0.92, 1.08)
SENTENCE_WORDS = (2, 3)


def write_corpus(folder: Path) -> None:
    """Write all subsets as ``SUBSET/SPEAKER/CHAPTER/*.flac`` and ``*.trans.txt``."""
    import soundfile

    held_out = set(sentences("dev-clean", excluded=set()))
    for rank, subset in enumerate(PARAMETERS):
        texts = sentences(subset, excluded=set() if subset == "dev-clean" else held_out)
        speakers = SPEAKERS[subset]
        for number, text in enumerate(texts):
            speaker = 1000 * (rank + 1) + number % speakers
            chapter = folder / subset / str(speaker) / "1"
            chapter.mkdir(parents=True, exist_ok=True)
            key = f"{speaker}-1-{number // speakers:04d}"
            audio = np.round(32767 * speak(text, speaker, number)).astype(np.int16)
            soundfile.write(chapter / f"{key}.flac", audio, SAMPLE_RATE, subtype="PCM_16")
            with (chapter / f"{speaker}-1.trans.txt").open("a") as file:
                file.write(f"{key} {text}\n")


def sentences(subset: str, *, excluded: set[str]) -> list[str]:
    """Draw a subset's sentences of two or three words, none of them in ``excluded``."""
    rng = np.random.default_rng([STREAM, list(PARAMETERS).index(subset)])
    texts: list[str] = []
    while len(texts) < PARAMETERS[subset]:
        count = rng.integers(SENTENCE_WORDS[0], SENTENCE_WORDS[1] + 1)
        text = " ".join(rng.choice(WORDS, count))
        if text not in excluded:
            texts.append(text)
    return texts


def speak(text: str, speaker: int, number: int) -> np.ndarray:
    """Synthesise a sentence: audio_N, float64 in (-1, 1), 16 kHz."""
    # The speaker sets pitch, rate and loudness of the tones, the number durations and noise.
    voice = np.random.default_rng([STREAM, 1, speaker])
    pitch, rate = voice.uniform(*PITCH), voice.uniform(*RATE)
    loudness_K = voice.uniform(*LOUDNESS, len(CHORD))
    rng = np.random.default_rng([STREAM, 2, speaker, number])
    parts = [_silence(rng.uniform(*LEAD_SECONDS))]
    for word in text.split():
        for letter in word:
            seconds = rng.uniform(*LETTER_SECONDS) / rate
            parts.append(chord(LETTERS.index(letter), seconds, pitch, loudness_K))
        parts.append(_silence(rng.uniform(*PAUSE_SECONDS) / rate))
    audio_N = np.concatenate(parts)
    return np.clip(audio_N + NOISE_SIGMA * rng.standard_normal(len(audio_N)), -0.99, 0.99)


def chord(letter: int, seconds: float, pitch: float, loudness_K: np.ndarray) -> np.ndarray:
    """Synthesise a letter: three tones that fade in and out."""
    time_N = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    steps_K = [(letter + step) % len(LETTERS) for step in CHORD]
    hertz_K = pitch * LOWEST_HZ * SPACING ** np.array(steps_K)
    tones_N = loudness_K @ np.sin(2 * np.pi * hertz_K[:, None] * time_N)
    fade_N = np.minimum(1.0, np.minimum(time_N, time_N[::-1]) / 0.01)
    return TONE_AMPLITUDE * fade_N * tones_N


def _silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * SAMPLE_RATE))
