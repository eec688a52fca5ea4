"""Utterances streamed over http: those of the prepared shards, by length, and one line for bad."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from datamodules.librispeech import LibriSpeechDataModule
from datamodules.librispeech import build as builder
from tests.datamodules.common.stream.shard_server import ShardServer, serving, tar_bytes
from tests.datamodules.imagenet.test_datamodule import attach
from tests.datamodules.librispeech.tiny_librispeech import VOCABULARY, write_tiny

SIZES = {"batch_size": 4, "validation_batch_size": 5, "vocab_size": VOCABULARY, "num_buckets": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "SHARD_UTTERANCES", 7)
        root = write_tiny(tmp_path_factory.mktemp("speech"))
        LibriSpeechDataModule(root=root, **SIZES).prepare_data()
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[ShardServer]:
    with serving(prepared(root)) as server:
        yield server


def prepared(root: Path) -> Path:
    return next(root.glob("finishline-rnnt*"))


def module_of(**options: Any) -> LibriSpeechDataModule:
    module: Any = LibriSpeechDataModule(**{**SIZES, **options})
    return attach(module)  # type: ignore[return-value]


def utterances(batches: Any) -> dict[int, dict[str, Any]]:
    """By number, without padding."""
    found = {}
    for batch in batches:
        for row, number in enumerate(batch["index"].tolist()):
            found[number] = {
                "audio": batch["audio"][row, : batch["audio_lengths"][row]],
                "labels": batch["labels"][row, : batch["label_lengths"][row]],
                "seed": batch["seed"][row],
            }
    return found


def same(one: dict[int, Any], other: dict[int, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[n][key]) for n, item in one.items() for key, value in item.items()
    )


def test_prepared_shards_behind_http_give_the_same_utterances(
    server: ShardServer, root: Path
) -> None:
    module, plain = module_of(shards=server.url), module_of(root=root)
    module.prepare_data()
    plain.prepare_data()
    assert module.samples_per_epoch == plain.samples_per_epoch == 36
    assert module.mllog_facts() == plain.mllog_facts()
    assert same(utterances(module.val_dataloader()), utterances(plain.val_dataloader()))
    batches = list(module.train_dataloader())
    assert [len(batch["index"]) for batch in batches] == [4] * 9
    assert same(utterances(batches), utterances(plain.train_dataloader()))
    assert module.decode([5]) == plain.decode([5])
    assert module.utterance_name(8) == "dev-00001.tar:1"
    # Sorted by length in pools of three batches, so padded less than by chance.
    spread = [int(b["audio_lengths"].max() - b["audio_lengths"].min()) for b in batches]
    assert np.mean(spread) < 3000


def test_two_ranks_are_disjoint_and_a_resumed_one_goes_on(server: ShardServer) -> None:
    seen, evaluated = [], []
    for rank in (0, 1):
        module: Any = module_of(shards=server.url)
        attach(module, rank, 2)
        batches = list(module.train_dataloader())
        seen.append([n for batch in batches for n in batch["index"].tolist()])
        evaluated += [n for batch in module.val_dataloader() for n in batch["index"].tolist()]
        attach(module, rank, 2, done=3)
        (last,) = module.train_dataloader()
        assert torch.equal(last["seed"], batches[3]["seed"])
    assert len(seen[0]) == len(seen[1]) == 16
    assert not {*seen[0]} & {*seen[1]}
    assert sorted(evaluated) == list(range(12))


def test_long_utterances_are_left_out_and_others_take_their_places(server: ShardServer) -> None:
    module = module_of(shards=server.url, max_duration=0.4, batch_size=2)
    batches = list(module.train_dataloader())
    assert len(batches) == module.samples_per_epoch // 2 < 18
    assert max(int(batch["audio_lengths"].max()) for batch in batches) <= 6400


def recording(rate: int = 16000, form: str = "FLAC", subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    audio = (np.sin(np.arange(3000) / 9) * 9000).astype(np.int16)
    samples = audio / 32768 if subtype == "FLOAT" else audio
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def own(folder: Path, root: Path, samples: list[Any], **options: Any) -> LibriSpeechDataModule:
    (folder / "v.tar").write_bytes(tar_bytes([("v", {"flac": recording(), "txt": b"A NOTE"})]))
    (folder / "t.tar").write_bytes(tar_bytes(samples))
    (folder / "sizes.json").write_text(f'{{"v.tar": 1, "t.tar": {len(samples)}}}')
    model = prepared(root) / "tokenizer.model"
    given = {"tokenizer_model": model, "batch_size": len(samples), **options}
    return module_of(shards=f"{folder}/t.tar", val_shards=f"{folder}/v.tar", **given)


def test_a_set_of_long_utterances_alone_ends_with_one_line(tmp_path: Path, root: Path) -> None:
    good = ("a", {"flac": recording(), "txt": b"A NOTE"})
    with pytest.raises(ValueError, match="t.tar: a: no utterance is up to 0.1 s long"):
        list(own(tmp_path, root, [good], max_duration=0.1).train_dataloader())


def test_wav_files_of_whole_numbers_and_of_floats_are_the_same_sound(
    tmp_path: Path, root: Path
) -> None:
    kinds = {"flac": ("FLAC", "PCM_16"), "wav": ("WAV", "PCM_16"), "x": ("WAV", "FLOAT")}
    samples = [
        (key, {"flac" if key == "flac" else "wav": recording(16000, *kind), "txt": b"Star East\n"})
        for key, kind in kinds.items()
    ]
    module = own(tmp_path, root, samples)
    module.prepare_data()
    (batch,) = module.train_dataloader()
    order = np.argsort(batch["index"].numpy())
    flac, wav, floats = (batch["audio"][int(n)].int() for n in order)
    assert torch.equal(flac, wav)
    assert torch.equal(floats, wav)
    assert module.decode(batch["labels"][0, : batch["label_lengths"][0]].tolist()) == "star east"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"flac": recording()[:900], "txt": b"A"}, "cannot be decoded|is truncated"),
        ({"flac": b"x", "txt": b"A"}, r"cannot be decoded \("),
        ({"flac": recording(8000), "txt": b"A"}, "8000 Hz, 1 channels; needed: 16000 Hz, 1"),
        ({"flac": recording(), "txt": b" \n"}, "txt is empty"),
        ({"flac": recording(), "txt": b"\xff"}, "txt is not UTF-8"),
        ({"flac": recording(), "txt": "ÄZ".encode()}, r"characters outside of the vocab.* \(z ä\)"),
        ({"flac": recording()}, "has no txt, only flac"),
        ({"mp3": b"", "txt": b"A"}, "has no flac or wav or ogg, only mp3, txt"),
    ],
)
def test_a_bad_sample_is_named_by_shard_and_key(
    tmp_path: Path, root: Path, fields: dict[str, bytes], line: str
) -> None:
    good = ("a", {"flac": recording(), "txt": b"A NOTE"})
    module = own(tmp_path, root, [good, ("b/2", fields)])
    with pytest.raises(ValueError, match=f"^{tmp_path}/t.tar: b/2: .*(?:{line})"):
        list(module.train_dataloader())


def test_a_missing_vocabulary_is_one_line(tmp_path: Path, root: Path) -> None:
    good = ("a", {"flac": recording(), "txt": b"A NOTE"})
    (problem,) = own(tmp_path, root, [good], tokenizer_model=None).problems()
    assert "give a SentencePiece model with --data.tokenizer_model FILE" in problem
    with pytest.raises(ValueError, match=f"with {VOCABULARY} pieces, data.vocab_size is 30"):
        module_of(shards=str(prepared(root)), vocab_size=30).setup("fit")
