"""Text to token files: what comes out, what survives a kill, and each kind of damaged input."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from datamodules.c4 import C4DataModule, raw
from datamodules.c4.indexed import Pair, map_lengths, map_tokens, read_header
from datamodules.c4.published import SPLITS, find_pair
from tests.datamodules.c4.corpus import VOCAB_SIZE, texts, train_tokenizer, write_corpus, write_text


def module(folder, **settings):
    defaults = {"raw": folder, "seq_length": 16, "vocab_size": VOCAB_SIZE, "num_shards": 2}
    return C4DataModule(**{**defaults, "eval_sequences": 4, "prepare_processes": 1} | settings)


def documents(root, split):
    """Tokens of each document as the files have them."""
    pair = find_pair(Path(root), split)
    index = read_header(pair.idx)
    tokens, lengths = map_tokens(pair.bin, index.dtype), map_lengths(pair.idx, index.documents)
    return [part.tolist() for part in np.split(tokens, np.cumsum(lengths)[:-1])]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(VOCAB_SIZE, "uint16"), (128_256, "int32")])
def test_documents_come_out_as_the_tokenizer_makes_them(tmp_path, vocab_size, dtype):
    written = write_corpus(tmp_path / "raw")
    module(tmp_path / "raw", root=tmp_path / "out", vocab_size=vocab_size).prepare()
    tokenizer = train_tokenizer(texts(0))
    encoded = {
        name: [tokenizer.encode(text).ids for text in some] for name, some in written.items()
    }
    train = [ids for name in sorted(encoded) if "train" in name for ids in encoded[name]]
    assert documents(tmp_path / "out", "train") == train
    held_out = encoded["c4-validation.00000-of-00008.json.gz"]
    assert documents(tmp_path / "out", "validation") == held_out
    assert read_header(find_pair(tmp_path / "out", "train").idx).dtype == dtype
    left = sorted(path.name for path in (tmp_path / "out/finishline-c4/text").iterdir())
    assert left == [".lock", "manifest.json", "prepare.log", "records.jsonl"]
    assert (
        module(None, root=tmp_path / "out", vocab_size=vocab_size).decode(train[0]) == texts(0)[0]
    )


def test_documents_without_tokens_are_skipped(tmp_path):
    write_corpus(tmp_path)
    path = tmp_path / "c4-train.00769-of-01024.json.gz"
    write_text(path, ["", "a b", "", "c"])
    data = module(tmp_path)
    data.prepare()
    assert len(documents(tmp_path, "train")) == len(texts(0)) + 2
    facts = json.loads((tmp_path / "finishline-c4/text/manifest.json").read_text())
    assert facts["splits"]["train"]["empty"] == 2


def test_held_out_text_ends_after_the_published_number_of_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "HELD_OUT", 25)
    write_corpus(tmp_path)
    write_text(tmp_path / "c4-validation.00001-of-00008.json.gz", texts(98, 20))
    monkeypatch.setattr(raw, "HELD_OUT_SHARDS", 2)
    monkeypatch.setattr(raw, "NUM_SHARDS", 2)
    module(tmp_path).prepare()
    tokenizer = train_tokenizer(texts(0))
    wanted = [tokenizer.encode(text).ids for text in [*texts(99, 20), *texts(98, 5)]]
    assert documents(tmp_path, "validation") == wanted


def test_processes_write_the_same_bytes(tmp_path):
    for name, processes in (("one", 1), ("two", 2)):
        write_corpus(tmp_path / name)
        module(tmp_path / name, prepare_processes=processes).prepare()
    for split in SPLITS.values():
        for one in Pair.of(tmp_path / "one" / split.stem):
            assert one.read_bytes() == (tmp_path / "two" / one.name).read_bytes()


@pytest.fixture
def done(monkeypatch):
    """Names of the parts that were made, in order."""
    names, tokenise = [], raw.tokenise

    def noted(shard):
        result = tokenise(shard)
        names.append(shard.name)
        return result

    monkeypatch.setattr(raw, "tokenise", noted)
    return names


def test_a_killed_run_continues_where_it_was(tmp_path, done, monkeypatch):
    write_corpus(tmp_path, shards=3)
    noted = raw.tokenise

    def killed(shard):
        if len(done) == 2:
            raise KeyboardInterrupt
        return noted(shard)

    monkeypatch.setattr(raw, "tokenise", killed)
    with pytest.raises(KeyboardInterrupt):
        module(tmp_path, num_shards=3).prepare()
    first = list(done)
    assert len(first) == 2
    monkeypatch.setattr(raw, "tokenise", noted)
    module(tmp_path, num_shards=3).prepare()
    assert sorted(done) == ["train-00000", "train-00001", "train-00002", "validation"]


def test_a_run_killed_while_joining_joins_again(tmp_path, done, monkeypatch):
    write_corpus(tmp_path)
    monkeypatch.setattr(raw, "write_index", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        module(tmp_path).prepare()
    monkeypatch.undo()
    module(tmp_path).prepare()
    assert len(done) == 3
    assert len(documents(tmp_path, "train")) == 80


def test_ready_files_are_not_made_again_unless_text_or_files_changed(tmp_path, done, capsys):
    write_corpus(tmp_path)
    module(tmp_path).prepare()
    before = find_pair(tmp_path, "train").bin.stat().st_mtime_ns
    module(tmp_path).prepare()
    assert len(done) == 3
    assert find_pair(tmp_path, "train").bin.stat().st_mtime_ns == before
    write_text(tmp_path / "c4-train.00769-of-01024.json.gz", texts(50, 30))
    module(tmp_path).prepare()
    assert (
        "c4-train.00769-of-01024.json.gz changed since it was prepared" in capsys.readouterr().out
    )
    assert len(documents(tmp_path, "train")) == 70
    find_pair(tmp_path, "validation").idx.unlink()
    module(tmp_path).prepare()
    assert len(documents(tmp_path, "validation")) == 20


def test_text_may_be_removed_once_its_tokens_are_there(tmp_path):
    write_corpus(tmp_path / "text")
    module(tmp_path / "text", root=tmp_path / "out").prepare()
    shutil.rmtree(tmp_path / "text")
    again = module(tmp_path / "text", root=tmp_path / "out")
    assert again.problems() == []
    again.prepare()


def flipped(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


def line_in(path, number, line):
    lines = gzip.decompress(path.read_bytes()).splitlines()
    lines[number - 1] = line
    path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))


# What is done to a shard, and words of the error.
DAMAGE = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-20]), "is damaged after line"),
    "checksum": (lambda p: flipped(p, -6), r"is damaged after line 40 \(CRC"),
    "bytes": (lambda p: flipped(p, 500), "is damaged after line"),
    "not packed": (lambda p: p.write_bytes(b'{"text": "a"}\n'), r"is damaged after line 0 \(Not a"),
    "empty file": (lambda p: p.write_bytes(b""), "has no document with text"),
    "no JSON": (lambda p: line_in(p, 7, b"{"), r"line 7 is not a document \(not JSON\)"),
    "empty line": (lambda p: line_in(p, 7, b""), r"line 7 is not a document \(not JSON\)"),
    "no text": (lambda p: line_in(p, 7, b'{"url": 1}'), r"line 7 .* \(no field text\)"),
    "a list": (lambda p: line_in(p, 7, b"[1]"), r"line 7 .* \(no field text\)"),
    "null": (lambda p: line_in(p, 7, b'{"text": null}'), r"line 7 .* \(text is NoneType\)"),
    "no UTF-8": (lambda p: line_in(p, 7, b'{"text": "\xff"}'), r"line 7 .* \(not UTF-8\)"),
    "surrogate": (lambda p: line_in(p, 7, b'{"text": "\\ud800"}'), r"line 7 .* \(not UTF-8\)"),
    "no documents": (lambda p: write_text(p, ["", ""]), "has no document with text"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_text_is_named_in_one_line_and_the_rest_is_kept(tmp_path, done, what):
    damage, words = DAMAGE[what]
    write_corpus(tmp_path)
    path = tmp_path / "c4-train.00768-of-01024.json.gz"
    damage(path)
    with pytest.raises(ValueError, match=words) as error:
        module(tmp_path).prepare()
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert sorted(done) == ["train-00001", "validation"]
    write_text(path, texts(0))
    module(tmp_path).prepare()
    assert sorted(done) == ["train-00000", "train-00001", "validation"]


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    from datamodules.c4 import tokenise

    monkeypatch.setattr(tokenise, "LONGEST_LINE", 1000)
    write_corpus(tmp_path)
    write_text(tmp_path / "c4-train.00768-of-01024.json.gz", ["a", "b" * 2000])
    with pytest.raises(ValueError, match=r"00768-of-01024.json.gz: line 2 is longer than 64 MiB"):
        module(tmp_path).prepare()


def test_missing_shards_are_named_once_each(tmp_path):
    write_corpus(tmp_path)
    data = module(tmp_path, num_shards=128)
    (tmp_path / "c4-validation.00000-of-00008.json.gz").unlink()
    with pytest.raises(FileNotFoundError) as error:
        data.prepare()
    lines = str(error.value).splitlines()
    assert "c4-train.00770-of-01024.json.gz is missing; get it from" in lines[0]
    assert "--data.num_shards (open division)" in lines[0]
    assert lines[-1] == "... and 121 more like the last line"
    assert data.problems() == lines


def test_the_same_text_twice_is_refused(tmp_path):
    write_corpus(tmp_path)
    write_text(tmp_path / "c4-train.00769-of-01024.json.gz", texts(0))
    with pytest.raises(ValueError, match="00768-.* and .*00769-.* hold the same text"):
        module(tmp_path).prepare()


def test_own_text_is_found_by_its_names(tmp_path):
    write_corpus(tmp_path)
    for seed, name in enumerate(("train-a", "train-b", "val"), 10):
        write_text(tmp_path / f"{name}.json.gz", texts(seed, 10))
    for path in tmp_path.glob("c4-*"):
        path.unlink()
    data = module(tmp_path, num_shards=128)
    data.prepare()
    assert len(documents(tmp_path, "train")) == 20
    assert "20 train documents instead of 45,608,611" in data.differences()


def test_own_choice_of_c4s_shards_is_taken_as_own_text(tmp_path):
    write_corpus(tmp_path)
    for i in (768, 769):
        old = tmp_path / f"c4-train.{i:05d}-of-01024.json.gz"
        old.rename(tmp_path / f"c4-train.{i - 700:05d}-of-01024.json.gz")
    module(tmp_path).prepare()
    assert len(documents(tmp_path, "train")) == 80


def test_what_a_tokenizer_adds_and_cuts_off_is_left_out(tmp_path):
    from tokenizers.processors import TemplateProcessing

    write_corpus(tmp_path / "plain")
    write_corpus(tmp_path / "odd")
    path = tmp_path / "odd/tokenizer.json"
    tokenizer = train_tokenizer(texts(0))
    tokenizer.enable_truncation(7)
    tokenizer.enable_padding(length=40)
    tokenizer.post_processor = TemplateProcessing("!:0 $A:0", special_tokens=[("!", 0)])
    tokenizer.save(str(path))
    for name in ("plain", "odd"):
        module(tmp_path / name).prepare()
    assert documents(tmp_path / "odd", "train") == documents(tmp_path / "plain", "train")


# What is done to the tokenizer, and words of the error.
TOKENIZERS = {
    "missing": (lambda p: p.unlink(), "tokenizer.json is missing: text needs the tokenizer"),
    "damaged": (lambda p: p.write_text("{"), "is not a file of the library tokenizers"),
    "binary": (lambda p: p.write_bytes(b"\xff\x00"), "is not a file of the library tokenizers"),
    "too large": (
        lambda p: train_tokenizer(texts(0), 400).save(str(p)),
        "ids go up to 3.., but data.vocab_size is 300",
    ),
}


@pytest.mark.parametrize("what", TOKENIZERS)
def test_a_tokenizer_that_does_not_fit_is_named(tmp_path, what):
    change, words = TOKENIZERS[what]
    write_corpus(tmp_path)
    change(tmp_path / "tokenizer.json")
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        module(tmp_path).prepare()
    assert any(words[:20] in line for line in module(tmp_path).problems()) or what == "too large"


def test_a_tokenizer_that_cannot_make_text_of_tokens_is_taken(tmp_path):
    write_corpus(tmp_path)
    tokenizer = train_tokenizer(texts(0))
    tokenizer.decoder = None
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    module(tmp_path).prepare()
    assert len(documents(tmp_path, "train")) == 80


def test_another_tokenizer_cannot_mix_with_finished_shards(tmp_path):
    write_corpus(tmp_path)
    (tmp_path / "c4-train.00769-of-01024.json.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="has no document"):
        module(tmp_path).prepare()
    train_tokenizer(texts(1)).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"was prepared with tokenizer \w+, this run needs"):
        module(tmp_path).prepare()


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    write_corpus(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "preparing needs 0.00 GB, the disk has 0.00 GB free" in module(tmp_path).problems()[0]
    with pytest.raises(ValueError, match="preparing needs"):
        module(tmp_path).prepare()
    assert not list(tmp_path.rglob("*.bin"))
