"""Preprocessing of LibriSpeech: shards that others read too, restarts, one line per problem."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import soundfile
import webdataset

from datamodules.librispeech import build as builder
from datamodules.librispeech import raw
from datamodules.librispeech.audio import Utterances
from datamodules.librispeech.raw import scan
from datamodules.librispeech.subsets import find_data
from datamodules.librispeech.text import Tokenizer, train_tokenizer
from tests.datamodules.librispeech.tiny_librispeech import (
    SUBSETS,
    VOCABULARY,
    WORDS,
    data,
    first_flac,
    problem,
    write_tiny,
)


@pytest.fixture
def root(tmp_path):
    return write_tiny(tmp_path / "LibriSpeech")


def test_shards_are_read_by_the_webdataset_library_and_by_offset_alike(root, monkeypatch):
    monkeypatch.setattr(builder, "SHARD_UTTERANCES", 10)
    module = data(root)
    module.prepare_data()
    folder = root / f"finishline-rnnt-{VOCABULARY}"
    names = sorted(path.name for path in folder.glob("train-*.tar"))
    assert names == [f"train-{n:05d}.tar" for n in range(4)]
    utterances = Utterances(folder, "train", module._manifest, seed=0)
    urls = [str(folder / name) for name in names]
    stream = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in stream] == utterances.keys.tolist()
    subsets, _ = scan(root)
    listed = [u for name, some in subsets.items() if name != "dev-clean" for u in some]
    for number, (sample, utterance) in enumerate(zip(stream, listed, strict=True)):
        assert sample["flac"] == utterance.path.read_bytes()
        assert sample["txt"].decode() == utterance.text
        wanted, _ = soundfile.read(utterance.path, dtype="int16")
        np.testing.assert_array_equal(utterances[number].audio.numpy(), wanted)
        assert module.decode(utterances[number].labels.tolist()) == utterance.text


def test_prepared_folder_is_complete_or_made_anew(root):
    data(root).prepare_data()
    folder = root / f"finishline-rnnt-{VOCABULARY}"
    before = (folder / "manifest.json").read_bytes()
    for name in ("train-00000.tar", "dev-labels.npz", "tokenizer.model", "manifest.json"):
        (folder / name).unlink()
        data(root).prepare_data()
        assert (folder / "manifest.json").read_bytes() == before
    left = {path.suffix for path in folder.iterdir()}
    assert left <= {".tar", ".json", ".jsonl", ".npz", ".npy", ".model", ".log", ""}


@pytest.mark.parametrize(
    "content", ["", '{"format": 2, "vocab', "{}", "[]", '{"format": 2, "dataset": "librispeech"}']
)
def test_damaged_manifest_is_made_anew(root, content):
    data(root).prepare_data()
    folder = root / f"finishline-rnnt-{VOCABULARY}"
    before = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_text(content)
    (folder / "records.jsonl").open("a").write('\n{"unit": "train')  # half a line
    data(root).prepare_data()
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("name", ["dev-labels.npz"])
def test_damaged_table_says_what_to_do(root, name):
    module = data(root)
    module.prepare_data()
    path = root / f"finishline-rnnt-{VOCABULARY}" / name
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    with pytest.raises(ValueError, match=f"{name} is damaged; delete it and run the prepare"):
        module.val_dataloader()
    path.unlink()
    data(root).prepare_data()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ["train-00000.tar", "train.json", "dev-labels.npz"])
def test_truncated_file_of_a_prepared_folder_is_written_again(root, name):
    data(root).prepare_data()
    path = root / f"finishline-rnnt-{VOCABULARY}" / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is not prepared; run the recipe's prepare command"):
        data(root).train_dataloader()
    data(root).prepare()
    assert path.read_bytes() == whole


def test_restart_keeps_finished_shards_and_writes_the_rest(root, monkeypatch):
    monkeypatch.setattr(builder, "SHARD_UTTERANCES", 10)
    bad = sorted((root / "train-other-500").rglob("*.flac"))[-1]
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    assert str(bad) in problem(root)
    folder = root / f"finishline-rnnt-{VOCABULARY}"
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    assert len(done) == 5  # all but the last training shard: 4 of train, 2 of dev
    assert not (folder / "manifest.json").exists()
    bad.write_bytes(whole)
    data(root).prepare_data()
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(list(folder.glob("*.tar"))) == 6


def test_changed_transcript_rewrites_its_shard(root):
    data(root).prepare_data()
    path = sorted(root.rglob("*.trans.txt"))[0]
    path.write_text(path.read_text().replace(" ", " NOTE ", 1))
    folder = root / f"finishline-rnnt-{VOCABULARY}"
    (folder / "manifest.json").unlink()
    data(root).prepare_data()
    stream = webdataset.WebDataset(str(folder / "dev-00000.tar"), shardshuffle=False)
    assert next(iter(stream))["txt"].decode().startswith("note")


def test_ready_data_opens_only_the_manifest(root):
    data(root).prepare_data()
    for path in root.rglob("*.flac"):
        path.unlink()
    module = data(root)
    module.prepare_data()
    assert module.samples_per_epoch == 36
    assert module.problems() == []


def test_root_may_be_the_folder_above(root):
    assert find_data(root.parent) == root == find_data(root)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("LibriSpeech/dev-clean", "one level too low: pass"),
        ("LibriSpeech/nothing", "is not a directory"),
    ],
)
def test_root_at_another_level_is_named(root, given, words):
    assert words in problem(root.parent / given)


def test_root_one_level_too_high_is_named(root, tmp_path):
    (tmp_path / "outer" / "deeper").mkdir(parents=True)
    shutil.move(root, tmp_path / "outer" / "deeper" / "LibriSpeech")
    text = problem(tmp_path / "outer")
    assert "one level too high: pass" in text
    assert text.endswith("LibriSpeech")


def test_archive_extracted_into_its_own_subset_is_named(root):
    inner = root / "train-clean-100" / "LibriSpeech" / "train-clean-100"
    inner.mkdir(parents=True)
    shutil.move(root / "train-clean-100" / "10", inner / "10")
    assert "one level too deep" in problem(root)


def test_missing_subset_says_which_archive_and_how_big(root):
    shutil.rmtree(root / "dev-clean")
    lines = problem(root).splitlines()
    where = "www.openslr.org/resources/12"
    assert lines == [  # the archives bring their own folder LibriSpeech
        f"{root}/dev-clean: missing; extract {where}/dev-clean.tar.gz (337 MB) in {root.parent}",
    ]
    assert data(root).problems() == lines
    (root / "LibriSpeech").mkdir()
    (root / "train-other-500").rename(root / "LibriSpeech" / "dev-clean")
    assert scan(root)[1] == [
        f"{root}/dev-clean: missing; its archive was extracted one level too deep, move "
        f"{root}/LibriSpeech/dev-clean to {root}"
    ]
    shutil.rmtree(root / "LibriSpeech")
    other = root.rename(root.with_name("speech"))
    assert f"(337 MB) and move its LibriSpeech/dev-clean to {other}" in problem(other)


def test_recording_without_transcript_and_the_reverse_are_named(root):
    lone = first_flac(root)
    lone.rename(lone.with_name("10-1-9999.flac"))
    text = problem(root)
    assert "10-1-9999.flac: no transcript" in text
    assert f"{lone}: missing, though it has a transcript" in text


def test_pipes_are_named_and_not_waited_for(root):
    transcript, recording = next(root.rglob("*.trans.txt")), first_flac(root)
    text = transcript.read_text()
    transcript.unlink()
    os.mkfifo(transcript)
    assert ".flac: no transcript" in problem(root)
    transcript.unlink()
    transcript.write_text(text)
    recording.unlink()
    os.mkfifo(recording)
    assert f"{recording}: is a pipe, not a recording; extract it again" in problem(root)


def test_strange_letter_and_empty_transcript_are_named(root, monkeypatch):
    monkeypatch.setattr(raw, "UTTERANCES", dict.fromkeys(SUBSETS, 12))  # LibriSpeech itself
    paths = sorted(root.rglob("*.trans.txt"))
    paths[0].write_text(paths[0].read_text().replace("A", "É", 1))
    lines = paths[1].read_text().splitlines()
    paths[1].write_text("\n".join([lines[0].split()[0], *lines[1:]]) + "\n")
    assert "is empty" in problem(root)
    paths[1].write_text("\n".join([*lines]) + "\n")
    [line] = problem(root).splitlines()
    assert line.startswith(f"{paths[0]}: the transcript of 13-1-00")
    assert "has 'É', allowed are A-Z" in line


def test_tokenizer_of_another_size_is_refused(root, tmp_path):
    texts = [u.text for some in scan(root)[0].values() for u in some]
    path = tmp_path / "other.model"
    path.write_bytes(train_tokenizer(texts, 16))
    assert "has 16 pieces, data.vocab_size is 20" in problem(root, tokenizer_model=path)
    path.write_bytes(b"nonsense")
    assert "is not a SentencePiece model" in problem(root, tokenizer_model=path)
    assert "is not a file" in problem(root, tokenizer_model=tmp_path / "none.model")


def test_tokenizer_that_lacks_a_letter_is_refused(root, tmp_path):
    path = tmp_path / "few.model"
    path.write_bytes(train_tokenizer(["on a note not ten at a tea"] * 20, 8))
    assert "characters outside of the vocabulary" in problem(
        root, tokenizer_model=path, vocab_size=8
    )


def test_given_tokenizer_is_used(root, tmp_path):
    texts = [u.text for some in scan(root)[0].values() for u in some]
    path = tmp_path / "mine.model"
    path.write_bytes(train_tokenizer(texts, 16))
    module = data(root, tokenizer_model=path, vocab_size=16)
    module.prepare_data()
    kept = root / "finishline-rnnt-16" / "tokenizer.model"
    assert kept.read_bytes() == path.read_bytes()
    assert Tokenizer(kept, 16).decode(Tokenizer(path, 16).encode("near a star")) == "near a star"


@pytest.mark.parametrize(
    ("size", "words"),
    [(1023, "it gives at most {} pieces"), (3, "its characters need at least {} pieces")],
)
def test_vocabulary_that_does_not_fit_is_one_line_with_a_size_that_does(root, size, words):
    text = problem(root, vocab_size=size)
    number = re.search(r"\d+(?= pieces)", text)
    wanted = f"data.vocab_size {size} does not fit the text: {words}"
    assert text == wanted.format(number[0])
    data(root, vocab_size=int(number[0])).prepare_data()


def test_prepared_folder_of_another_vocabulary_is_refused(root, tmp_path):
    data(root, prepared_dir=tmp_path / "p").prepare_data()
    assert "was prepared with 20 pieces" in problem(
        root, prepared_dir=tmp_path / "p", vocab_size=16
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written_is_one_line(root):
    root.chmod(0o555)
    try:
        assert "cannot be written" in problem(root)
    finally:
        root.chmod(0o755)


def test_damaged_shard_is_named_when_read(root):
    module = data(root)
    module.prepare_data()
    folder = root / f"finishline-rnnt-{VOCABULARY}"
    shard = folder / "dev-00000.tar"
    content = bytearray(shard.read_bytes())
    content[512:3000] = bytes(2488)
    shard.write_bytes(content)
    utterances = Utterances(folder, "dev", module._manifest, seed=0)
    with pytest.raises(ValueError, match="dev-00000.tar: .* is damaged; delete the shard and run"):
        utterances[0]


def test_manifest_counts_what_the_log_needs(root):
    module = data(root, batch_size=5)
    module.prepare_data()
    assert module.mllog_facts() == {
        "train_samples": 35, "eval_samples": 12,
        "data_train_max_duration": 16.7, "data_train_num_buckets": 6,
    }  # fmt: skip
    folder = root / f"finishline-rnnt-{VOCABULARY}"
    assert json.loads((folder / "manifest.json").read_text())["settings"] == {
        "vocab_size": VOCABULARY
    }


def test_files_beside_the_archives_own_change_nothing(root):
    wanted = scan(root)
    for path in [*root.rglob("*.flac"), *root.rglob("*.trans.txt")]:
        path.with_name(f"._{path.name}").write_bytes(
            b"\x00\x05\x16\x07\xff"
        )  # as macOS leaves them
        path.with_name(".DS_Store").write_bytes(b"\xff")
    assert scan(root) == wanted


def test_linked_folders_and_a_byte_order_mark_are_read_through(root):
    wanted, _ = scan(root)
    speaker = next((root / "dev-clean").iterdir())
    speaker.rename(root / "elsewhere")
    speaker.symlink_to(root / "elsewhere")
    for path in (root / "elsewhere").rglob("*.trans.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert scan(root) == (wanted, [])


@pytest.mark.parametrize("target", ["dev-clean/13/1 (copy)", "train-other-500/13/1"])
def test_copied_chapter_is_refused_in_one_line(root, target):
    shutil.copytree(root / "dev-clean/13/1", root / target)
    [line] = scan(root)[1]
    assert "/13-1.trans.txt: 13-1-0000 has a transcript in " in line
    assert line.endswith(" too; remove the copy")


def test_transcript_that_is_no_utf8_names_the_file(root):
    path = root / "dev-clean/13/1/13-1.trans.txt"
    path.write_bytes(path.read_bytes().replace(b" ", b" \xe9", 1))
    [line] = problem(root).splitlines()
    assert line.startswith(f"{path}: the transcript of 13-1-0000 has")


def test_recording_that_cannot_be_read_is_not_called_a_full_disk(root):
    path = first_flac(root)
    path.unlink()
    path.symlink_to("/nowhere.flac")
    assert problem(root) == f"{path}: cannot be read (No such file or directory)"


def test_another_vocabulary_than_the_prepared_one_is_refused(root, tmp_path):
    data(root).prepare_data()
    same = root / f"finishline-rnnt-{VOCABULARY}" / "tokenizer.model"
    data(root, tokenizer_model=same).prepare_data()
    other = tmp_path / "other.model"
    words = np.random.default_rng(9).choice(WORDS, (36, 3))
    texts = [" ".join(row).lower() for row in words]
    other.write_bytes(train_tokenizer(texts, VOCABULARY))
    assert "was prepared with another vocabulary" in problem(root, tokenizer_model=other)
    assert "is not a file" in problem(root, tokenizer_model=tmp_path / "missing.model")


def test_changed_recording_is_said_and_its_shard_written_again(root, monkeypatch, capsys):
    monkeypatch.setattr(builder, "SHARD_UTTERANCES", 10)
    data(root).prepare()
    folder = root / f"finishline-rnnt-{VOCABULARY}"
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    first, second = sorted((root / "train-clean-100").rglob("*.flac"))[:2]
    first.write_bytes(second.read_bytes())
    data(root).prepare_data()  # says nothing: it reads the manifest only
    capsys.readouterr()
    module = data(root)
    module.prepare()
    line = f"{first} changed since it was prepared; preparing it again"
    assert line in capsys.readouterr().out
    changed = [n for n, t in stamps.items() if (folder / n).stat().st_mtime_ns != t]
    assert changed == ["train-00000.tar"]
    utterances = Utterances(folder, "train", module._manifest, seed=0)
    wanted, _ = soundfile.read(second, dtype="int16")
    np.testing.assert_array_equal(utterances[0].audio.numpy(), wanted)


def test_changed_transcript_is_said_and_labels_follow(root, capsys):
    data(root).prepare()
    path = sorted((root / "dev-clean").rglob("*.trans.txt"))[0]
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].split()[0] + " STAR STAR", *lines[1:]]) + "\n")
    capsys.readouterr()
    module = data(root)
    module.prepare()
    assert f"{path} changed since it was prepared" in capsys.readouterr().out
    utterances = Utterances(module._prepared, "dev", module._manifest, seed=0)
    assert module.decode(utterances[0].labels.tolist()) == "star star"


def write_old_format(root):
    """Names and manifest of a folder that finishline 0.1 prepared."""
    folder = root / f"finishline-rnnt-{VOCABULARY}"
    folder.mkdir()
    for name in ("train-000000.tar", "train-000000.json", "train-index.npz", "train-labels.npz",
                 "dev-000000.tar", "dev-000000.json", "dev-index.npz", "dev-labels.npz",
                 "tokenizer.model"):  # fmt: skip
        (folder / name).write_bytes(b"old")
    shards = {"train": ["train-000000"], "dev": ["dev-000000"]}
    lengths = {"train": [1600] * 36, "dev": [1600] * 12}
    content = {"format": 1, "vocab_size": VOCABULARY, "shards": shards, "num_samples": lengths}
    (folder / "manifest.json").write_text(json.dumps({**content, "most_labels": 9}))
    return folder


def test_folder_of_version_0_1_is_named_by_a_run_and_replaced_by_prepare(root, tmp_path):
    data(root, prepared_dir=tmp_path / "new").prepare_data()
    folder = write_old_format(root)
    wanted = (
        f"{folder} was prepared by another version of finishline: run the recipe's prepare "
        "command, which prepares it again"
    )
    assert problem(root) == wanted
    assert data(root).problems() == [wanted]
    data(root).prepare()
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert {path.name for path in folder.iterdir()} == names
    for name in names - {".lock", "prepare.log"}:
        assert (folder / name).read_bytes() == (tmp_path / "new" / name).read_bytes()


@pytest.mark.slow
def test_processes_write_the_same_bytes_and_need_no_torch(root, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "SHARD_UTTERANCES", 10)
    data(root, prepared_dir=tmp_path / "1", prepare_processes=1).prepare()
    data(root, prepared_dir=tmp_path / "2", prepare_processes=2).prepare()
    for path in (tmp_path / "1").iterdir():
        if path.name not in (".lock", "prepare.log"):
            assert (tmp_path / "2" / path.name).read_bytes() == path.read_bytes()
