"""Wikipedia's preparation: layout, picking, restarts, bad input; and its batches."""

import errno
import hashlib
import json
import os
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from datamodules.wikipedia import WikipediaDataModule
from datamodules.wikipedia import build as builder
from datamodules.wikipedia.demo import VOCAB_SIZE, Language
from datamodules.wikipedia.samples import Recipe, SpecialIds, make_samples
from datamodules.wikipedia.shards import open_shard
from datamodules.wikipedia.text import find_parts, tokenise
from datamodules.wikipedia.tokens import Vocabulary, WordPieces
from tests.datamodules.wikipedia.small_module import module


def test_vocabulary_of_the_demo_has_its_size():
    words = Language().vocabulary()
    assert len(words) == len(set(words)) == VOCAB_SIZE


def test_evaluation_samples_are_picked_by_the_rule(root):
    data = module(root)
    data.prepare_data()
    vocab = Vocabulary.read(root / "vocab.txt", VOCAB_SIZE)
    text = (root / "results4" / "eval.txt").read_text()
    special = SpecialIds(vocab["[CLS]"], vocab["[SEP]"], vocab["[MASK]"], len(vocab))
    every = make_samples(tokenise(text, WordPieces(vocab)), Recipe(64, 10, dupe_factor=2), special)
    shard = open_shard(data._prepared / "eval.safetensors")
    total = every.first_lengths.size
    for i in range(120):
        n = int(i * (total / 120))
        mine = shard["tokens"][slice(*shard["token_starts"][i : i + 2])]
        theirs = every.tokens[slice(*every.token_starts[n : n + 2])]
        assert mine.tolist() == theirs.tolist()
    assert len(shard["first_lengths"]) == 120


def test_golden_samples_of_a_small_text():
    # The reference's own program gives the same; see REFERENCE_MD5 in test_wikipedia_samples.py.
    rng = random.Random(3)
    language = Language()
    text = "\n\n".join(language.article(rng) for _ in range(3))
    vocab = Vocabulary(language.vocabulary())
    special = SpecialIds(vocab["[CLS]"], vocab["[SEP]"], vocab["[MASK]"], len(vocab))
    samples = make_samples(tokenise(text, WordPieces(vocab)), Recipe(), special)
    parts = (samples.tokens, samples.token_starts, samples.positions, samples.labels)
    content = b"".join(part.astype("<i8").tobytes() for part in parts)
    assert hashlib.md5(content).hexdigest() == GOLDEN


GOLDEN = "3223863ed73fc8e896ee6931a196089e"


def test_only_the_parts_of_a_run_are_prepared_and_more_parts_extend_them(root):
    data = module(root)
    data.prepare_data()
    shards = {p.name for p in data._prepared.glob("train-*")}
    assert len(shards) == 3
    stamps = {p.name: p.stat().st_mtime_ns for p in data._prepared.glob("train-*")}
    more = module(root, num_parts=5)
    more.prepare_data()
    assert len(list(more._prepared.glob("train-*"))) == 5
    for name, stamp in stamps.items():
        assert (more._prepared / name).stat().st_mtime_ns == stamp
    first = find_parts(root / "results4", 3)
    assert set(first) < set(find_parts(root / "results4", 5))


def test_killed_preparation_goes_on_where_it_was(root, monkeypatch):
    data = module(root)
    original, calls = builder.build_shard, []

    def dies(name, **rest):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(name)
        return original(name, **rest)

    monkeypatch.setattr(builder, "build_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        data.prepare_data()
    done = {p.name: p.stat().st_mtime_ns for p in data._prepared.glob("*.safetensors")}
    assert len(done) == 2
    monkeypatch.setattr(builder, "build_shard", original)
    module(root).prepare_data()
    for name, stamp in done.items():
        assert (data._prepared / name).stat().st_mtime_ns == stamp
    assert len(list(data._prepared.glob("*.safetensors"))) == 4


def test_prepared_folder_is_used_without_opening_samples_or_text(root, monkeypatch):
    module(root).prepare_data()
    opened = []
    real = os.open

    import builtins

    original = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda f, *a, **k: (opened.append(str(f)), original(f, *a, **k))[1]
    )
    monkeypatch.setattr(os, "open", lambda f, *a, **k: (opened.append(str(f)), real(f, *a, **k))[1])
    data = module(root)
    data.prepare_data()
    assert data.samples_per_epoch > 0
    assert not [name for name in opened if "safetensors" in name or "part-" in name]


def test_text_that_goes_away_during_a_run_is_not_missed(root):
    """Its directory was listed in every step, 3 ms for 500 parts."""
    data = module(root)
    data.prepare_data()
    samples = data.samples_per_epoch
    loader = data.train_dataloader()
    for path in (root / "results4").glob("*"):
        path.unlink()
    (root / "results4").rmdir()
    assert data.samples_per_epoch == samples
    assert len(next(iter(loader))["cu_seqlens"]) == data.batch_size + 1


def test_shards_are_plain_arrays_over_the_map(root):
    data = module(root)
    data.prepare_data()
    arrays = open_shard(next(data._prepared.glob("train-*.safetensors")))
    assert {type(array) for array in arrays.values()} == {np.ndarray}
    assert not any(array.flags.owndata or array.flags.writeable for array in arrays.values())


def test_interrupted_write_leaves_no_shard(root, monkeypatch):
    import safetensors.numpy

    def full(arrays, metadata):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(safetensors.numpy, "save", full)
    data = module(root)
    with pytest.raises(ValueError, match="cannot be written .no space left"):
        data.prepare_data()
    assert sorted(path.name for path in data._prepared.iterdir()) == [".lock", "prepare.log"]


def test_batches_hold_the_samples_packed(root):
    data = module(root)
    data.prepare_data()
    batch = next(iter(data.train_dataloader()))
    starts = batch["cu_seqlens"].tolist()
    assert len(starts) == 9
    assert starts[-1] == len(batch["input_ids"]) == len(batch["position_ids"])
    vocab = Vocabulary.read(root / "vocab.txt", VOCAB_SIZE)
    for a, b in zip(starts[:-1], starts[1:], strict=True):
        assert batch["input_ids"][a] == vocab["[CLS]"]
        assert batch["input_ids"][b - 1] == vocab["[SEP]"]
        assert batch["position_ids"][a:b].tolist() == list(range(b - a))
        segments = batch["segment_ids"][a:b]
        first = int((segments == 0).sum())
        assert segments.tolist() == [0] * first + [1] * (b - a - first)
        assert batch["input_ids"][a + first - 1] == vocab["[SEP]"]
        inside = (batch["masked_index"] >= a) & (batch["masked_index"] < b)
        assert int(inside.sum()) == min(10, max(1, round((b - a) * 0.15)))
    masked = batch["input_ids"][batch["masked_index"]]
    assert (masked == vocab["[MASK]"]).float().mean() > 0.6
    assert len(batch["masked_samples"]) == len(batch["masked_labels"])


def test_synthetic_batch_has_a_training_batchs_structure(root):
    data = module(root)
    data.prepare_data()
    real, made = next(iter(data.train_dataloader())), data.synthetic_batch()
    assert real.keys() == made.keys()
    for name, tensor in real.items():
        assert (tensor.dtype, tensor.ndim) == (made[name].dtype, made[name].ndim)
    assert len(made["cu_seqlens"]) == 9
    lengths = float(real["cu_seqlens"].diff().float().mean())
    assert float(made["cu_seqlens"].diff().float().mean()) == pytest.approx(lengths, rel=0.4)


def test_every_evaluation_sample_comes_once_over_two_ranks(root):
    class Trainer:
        world_size, accumulate_grad_batches = 2, 1
        strategy = type("S", (), {"root_device": torch.device("cpu")})()

        def __init__(self, rank):
            self.global_rank = rank

    seen = Counter()
    single = [b["index"].tolist() for b in _prepared(root).val_dataloader()]
    for rank in (0, 1):
        data = _prepared(root)
        data.trainer = Trainer(rank)
        batches = [b["index"].tolist() for b in data.val_dataloader()]
        assert all(batch in single for batch in batches)  # the same batches, so the same rounding
        seen.update(i for batch in batches for i in batch)
    assert seen == Counter(range(120))


def _prepared(root):
    data = module(root, evaluation_batch_size=50)
    data.prepare_data()
    return data


def test_doctor_lists_everything_that_lacks(root):
    (root / "results4" / "eval.md5").unlink()
    lines = module(root).problems()
    assert len(lines) == 3  # eval.md5 and the two files of the checkpoint
    assert all("missing" in line for line in lines)


def test_either_published_checkpoint_will_do(root, monkeypatch):
    monkeypatch.setattr("datamodules.wikipedia.text.PUBLISHED_PARTS", 8)
    data = module(root)
    assert data.checkpoint == root / "tf1_ckpt" / "model.ckpt-28252"
    (root / "tf2_ckpt").mkdir()
    for ending in ("index", "data-00000-of-00001"):
        (root / "tf2_ckpt" / f"model.ckpt-28252.{ending}").touch()
    assert data.checkpoint == root / "tf2_ckpt" / "model.ckpt-28252"
    assert data.problems() == []
    assert module(root, published_text=True).problems() == [
        f"{root}/tf2_ckpt/model.ckpt-28252{ending} has 0 bytes but the published file has {size}; "
        "fetch it again"
        for ending, size in ((".index", "6,420"), (".data-00000-of-00001", "1,344,982,997"))
    ]


def test_published_text_has_500_parts(root):
    with pytest.raises(ValueError, match="parts of 8, but the published text has 500"):
        module(root, published_text=True).prepare_data()
    assert any("parts of 8" in line for line in module(root, published_text=True).problems())


def test_prepare_says_which_parts_could_not_be_compared(root, monkeypatch, capsys):
    text = root / "results4"
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in text.iterdir()}
    sums["vocab.txt"] = hashlib.md5((root / "vocab.txt").read_bytes()).hexdigest()
    own = {name: md5 for name, md5 in sums.items() if not name.startswith("part-")}
    monkeypatch.setattr("datamodules.wikipedia.text.PUBLISHED_PARTS", 8)
    monkeypatch.setattr("datamodules.wikipedia.datamodule.reference_checksums", lambda folder: own)
    module(root, published_text=True).prepare()
    assert "3 of the parts were not compared" in capsys.readouterr().out
    own |= sums
    module(root, published_text=True).prepare()
    assert "compared" not in capsys.readouterr().out


def test_too_few_evaluation_samples_name_the_flag(root):
    with pytest.raises(ValueError, match=r"eval.txt yields \d+ samples but 9999 .*num_eval"):
        module(root, num_eval_samples=9999).prepare_data()


def test_numbers_out_of_range_get_one_line_each():
    with pytest.raises(ValueError, match="batch_size") as caught:
        WikipediaDataModule(batch_size=0, masked_lm_prob=2, max_seq_length=3)
    assert len(str(caught.value).splitlines()) == 3


def test_demo_is_far_above_the_target_for_who_knows_the_language_and_far_below_by_frequency():
    """The expert sees all other words and knows the habits; he does not know departures."""
    language, right, common = Language(), 0, Counter()
    rng, total = random.Random(999), 0
    noun_of = {verb: noun for noun, verb in enumerate(language.verb_of)}
    for _ in range(150):
        sentences = [s.lower().rstrip(".").split() for s in language.article(rng).split("\n")]
        places = Counter(words[-1] for words in sentences)
        for words in sentences:
            plural = words[3].endswith("n") and words[3][:-1] in language.verbs
            stem = [w[:-1] if plural and i in (1, 2, 3) else w for i, w in enumerate(words)]
            noun, verb = language.nouns.index(stem[2]), language.verbs.index(stem[3])
            patient = language.nouns.index(stem[5])
            here = places - Counter([stem[7]])
            guess = [
                language.articles[language.gender[noun]][plural],
                language.adjectives[language.adjective_of[noun]],
                language.nouns[noun_of[verb]],
                language.verbs[language.verb_of[noun]],
                language.articles[language.gender[patient]][0],
                language.nouns[language.object_of[verb]],
                language.prepositions[language.preposition_of[verb]],
                here.most_common(1)[0][0],
            ]
            sure = 1 + 3 * plural  # the full stop and the endings
            right += sure + sum(a == b for a, b in zip(guess, stem, strict=True))
            total += sure + 8
            common.update([*stem, *["##n"] * (3 * plural), "."])
    assert right / total > 0.9
    assert common.most_common(1)[0][1] / total < 0.25


def test_other_text_or_settings_are_refused_also_once_they_are_prepared(root, monkeypatch):
    monkeypatch.setattr("datamodules.wikipedia.text.PUBLISHED_PARTS", 8)
    files = [*(root / "results4").iterdir(), root / "vocab.txt"]
    published = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in files}
    data = module(root)
    data.prepare_data()
    source = replace(data._text_source, checksums=published)
    shards = data._manifest["shards"]
    builder.check_shards_match(source, data._prepared, shards)
    name = data._train_names[0]
    changed = {**shards, name: {**shards[name], "md5": "0" * 32}}
    with pytest.raises(ValueError, match=rf"{name}.safetensors was prepared from other text"):
        builder.check_shards_match(source, data._prepared, changed)
    with pytest.raises(ValueError, match="vocab.txt: MD5 .* the published file has 64800d5d"):
        module(root, published_text=True).prepare_data()
    with pytest.raises(ValueError, match="was prepared with max_seq_length 64, this run needs 32"):
        module(root, max_seq_length=32, prepared_dir=data._prepared).prepare_data()


def test_another_vocabulary_of_the_same_size_is_not_the_published_one(root):
    source = module(root)._text_source
    texts = [root / "results4" / name for name in ("eval.txt", "eval.md5")]
    md5s = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in texts}
    wrong = replace(source, checksums={**md5s, "vocab.txt": "1" * 32})
    with pytest.raises(ValueError, match="vocab.txt: MD5 .* the published file has 1111"):
        builder.build(wrong, root / "out")


@pytest.mark.parametrize("prepared", [True, False])
def test_missing_vocabulary_says_where_to_get_it(root, prepared):
    if prepared:
        module(root).prepare_data()
    (root / "vocab.txt").unlink()
    with pytest.raises(FileNotFoundError, match="vocab.txt is missing; see 'Data' in docs/bert.md"):
        module(root).prepare_data()


@pytest.mark.parametrize("content", ["", '{"format": 1, "sha', "[]", '{"format": 1}'])
def test_damaged_manifest_is_made_anew_from_the_shards(root, content):
    data = module(root)
    data.prepare_data()
    manifest = data._prepared / "manifest.json"
    before = manifest.read_bytes()
    manifest.write_text(content)
    module(root).prepare_data()
    assert manifest.read_bytes() == before


def test_shards_can_be_read_by_whoever_may_read_the_manifest(root):
    data = module(root)
    data.prepare_data()
    modes = {path.name: path.stat().st_mode for path in data._prepared.iterdir()}
    assert len([name for name in modes if name.endswith(".safetensors")]) == 4
    modes.pop(".lock")
    assert set(modes.values()) == {modes["manifest.json"]}


def as_version_1(folder, *, finished=True):
    """Turn a prepared folder into one of the version without records."""
    (folder / "records.jsonl").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    if finished:
        old = {"format": 1, "shards": manifest["shards"], "repeated_articles": 0}
        (folder / "manifest.json").write_text(json.dumps(old))
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("num_parts", [3, 4])
def test_shards_of_version_1_are_used(root, finished, num_parts):
    data = module(root)
    data.prepare_data()
    stamps = as_version_1(data._prepared, finished=finished)
    more = module(root, num_parts=num_parts)
    more.prepare_data()
    for name, stamp in stamps.items():
        assert (more._prepared / name).stat().st_mtime_ns == stamp
    assert len(list(more._prepared.glob("train-*"))) == num_parts
    assert module(root, num_parts=num_parts).samples_per_epoch == more.samples_per_epoch


def test_folders_of_other_versions_and_settings_get_one_line(root):
    data = module(root)
    data.prepare_data()
    as_version_1(data._prepared)
    other = module(root, max_seq_length=32, prepared_dir=data._prepared)
    with pytest.raises(ValueError, match="was prepared with other settings") as error:
        other.prepare_data()
    assert "\n" not in str(error.value)
    for content in ({"format": 99}, {"dataset": "wikipedia", "format": 99}):
        (data._prepared / "manifest.json").write_text(json.dumps(content))
        with pytest.raises(
            ValueError, match="another version .* run the recipe's prepare"
        ) as error:
            module(root).prepare_data()
        assert "\n" not in str(error.value)
    module(root).prepare()
    module(root).prepare_data()


def test_prepare_makes_the_shards_of_changed_text_again(root, capsys):
    data = module(root)
    data.prepare_data()
    name, path = next(iter(data._text_source.files().items()))
    shard = data._prepared / f"{name}.safetensors"
    before = shard.read_bytes()
    path.touch()
    module(root).prepare()
    assert "changed" not in capsys.readouterr().out
    path.write_text(path.read_text() * 2)
    module(root).prepare()
    assert f"{path} changed since it was prepared" in capsys.readouterr().out
    assert shard.read_bytes() != before


def test_prepare_makes_a_truncated_shard_and_a_manifest_without_shards_again(root):
    data = module(root)
    data.prepare_data()
    folder = next(root.glob("finishline-bert*"))
    shard, manifest = folder / "train-00000.safetensors", folder / "manifest.json"
    whole = shard.read_bytes(), manifest.read_bytes()
    shard.write_bytes(whole[0][:-8])
    assert any("train-00000.safetensors has" in line for line in data.problems())
    module(root).prepare()
    header = {key: json.loads(whole[1])[key] for key in ("dataset", "format", "settings")}
    manifest.write_text(json.dumps(header))
    module(root).prepare()
    assert (shard.read_bytes(), manifest.read_bytes()) == whole
