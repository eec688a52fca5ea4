"""Own text: any file names and vocabulary; what is refused, and how it differs from Wikipedia."""

import hashlib

import pytest

from datamodules.wikipedia import WikipediaDataModule
from datamodules.wikipedia.demo import Language
from datamodules.wikipedia.tokens import Vocabulary

NUM_WORDS = 112
SETTINGS = {"max_seq_length": 64, "max_predictions": 10, "dupe_factor": 2,
            "num_eval_samples": 20, "batch_size": 8}  # fmt: skip


def articles(seed, count=12):
    import random

    rng, language = random.Random(seed), Language()
    return [language.article(rng) for _ in range(count)]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(Language().vocabulary()) + "\n")
    for seed, name in enumerate(("b.txt", "c.txt", "eval.txt")):
        (folder / name).write_text("\n\n".join(articles(seed)) + "\n")
    (folder / "README.txt").write_text("not text to train on")
    return folder


def module(root, **settings):
    return WikipediaDataModule(root=root, **{**SETTINGS, **settings})


def refusal(root):
    with pytest.raises(ValueError, match=".") as error:
        module(root).prepare_data()
    return str(error.value)


def test_files_of_any_name_and_any_vocabulary_are_prepared(root, capsys):
    data = module(root)
    assert data.problems() == []
    assert data.net_facts() == {"vocab_size": NUM_WORDS}
    assert data.checkpoint is None
    assert data.notes() == ["own vocabulary: training starts from random weights"]
    assert not list(root.glob("finishline*"))
    data.prepare()
    assert "Own text is ready in" in capsys.readouterr().out
    assert {s["file"] for s in data._prepared_shards().values()} == {"b.txt", "c.txt", "eval.txt"}
    assert data.differences() == module(root).differences() == [
        "2 text files instead of 500 parts",
        "vocab.txt is not the published vocabulary",
        "eval.txt is not the published one",
    ]  # fmt: skip
    batch = next(iter(data.val_dataloader()))
    assert batch["input_ids"].max() < NUM_WORDS


def test_text_without_starting_weights_says_how_to_start(root, monkeypatch):
    monkeypatch.setattr("datamodules.wikipedia.datamodule.vocabulary_is_published", lambda p: True)
    data = module(root)
    assert data.problems() == []
    assert "--model.from_scratch true" in data.notes()[0]
    assert data.checkpoint is not None


def test_changed_starting_checkpoint_is_a_difference(root):
    (root / "tf2_ckpt").mkdir()
    start = root / "tf2_ckpt" / "model.ckpt-28252"
    start.with_name(start.name + ".index").write_bytes(bytes(6_420))
    (line,) = [line for line in module(root).differences() if "ckpt" in line]
    assert "model.ckpt-28252.index is not the published one (its MD5 is not fc34dd7a" in line
    start.with_name(start.name + ".index").write_bytes(b"")
    assert "index has 0 bytes instead of 6,420" in module(root).differences()[-1]


def test_prepared_part_of_other_text_is_a_difference(root, monkeypatch):
    for name, other in (("b.txt", "part-00000-of-00500"), ("c.txt", "part-00001-of-00500")):
        (root / name).rename(root / other)
    monkeypatch.setattr(
        "datamodules.wikipedia.text.random.Random.sample", lambda self, r, k: list(r)
    )
    data = module(root, num_parts=2)
    before = data.differences()
    data.prepare()
    odd = "2 prepared parts of other text than the published (part-00000-of-00500)"
    assert data.differences() == [*before, odd]


def test_vocabulary_that_does_not_fit_is_refused_with_share_and_words(root):
    words = Language().vocabulary()
    lost = [word for word in words if word.isalpha()][:20]
    kept = [word for word in words if word not in lost]
    (root / "vocab.txt").write_text("\n".join(kept) + "\n")
    first, *_ = refusal(root).splitlines()
    assert "b.txt: " in first
    assert "% of the word pieces are [UNK] (" in first
    named = first.split("(")[1].split(", ...")[0].split(", ")
    assert len(named) == 5
    assert set(named) <= {form for word in lost for form in (word, f"{word}n")}
    assert "vocab.txt does not fit the text" in first


def test_few_unknown_words_are_accepted(root):
    text = (root / "b.txt").read_text()
    (root / "b.txt").write_text(f"{text}\n\nAn unheard word.\n")
    data = module(root)
    data.prepare_data()
    assert data.problems() == []


def test_word_pieces_that_stand_twice_are_refused(root):
    words = Language().vocabulary()
    (root / "vocab.txt").write_text("\n".join([*words, words[20]]) + "\n")
    (line,) = module(root).problems()
    assert f"lines 21 and 113 are both {words[20]!r}" in line
    with pytest.raises(ValueError, match="lines 3 and 7 are both ''"):
        Vocabulary(["[PAD]", "[UNK]", "", "[CLS]", "[SEP]", "[MASK]", ""])


@pytest.mark.parametrize("change", [str, str.upper, lambda text: text.replace(" ", "  ")])
def test_held_out_article_in_the_training_text_is_refused(root, change):
    leaked = (root / "eval.txt").read_text().split("\n\n")[3]
    (root / "c.txt").write_text("\n\n".join([*articles(1), change(leaked)]) + "\n")
    line = refusal(root)
    assert "c.txt: 1 articles are also in eval.txt" in line
    assert change(leaked).splitlines()[0][:40] in line
    assert "remove them from one of the two" in line


def test_text_that_is_still_packed_is_named(root):
    (root / "d.txt.gz").write_bytes(b"x")
    assert "1 files are still packed next to the text (d.txt.gz)" in module(root).problems()[0]
    (root / "d.txt").write_text("\n\n".join(articles(7)) + "\n")
    assert module(root).problems() == []


def test_new_file_name_is_noticed_and_prepared(root):
    """Shards are numbered by file; a file that sorts first moves all numbers."""
    module(root).prepare()
    (root / "a.txt").write_text("\n\n".join(articles(8)) + "\n")
    (root / "c.txt").unlink()
    data = module(root)
    data.prepare_data()
    files = {name: s["md5"] for name, s in data._prepared_shards().items()}
    for name, path in (("train-00000", "a.txt"), ("train-00001", "b.txt")):
        assert files[name] == hashlib.md5((root / path).read_bytes()).hexdigest()


def test_doctor_tells_changed_text_other_settings_and_an_outdated_directory(root):
    module(root).prepare()
    assert module(root).problems() == []
    path = root / "b.txt"
    path.write_text(path.read_text() + "\n\n" + articles(11)[0] + "\n")
    (line,) = module(root).problems()
    assert "b.txt changed since it was prepared; run the recipe's prepare" in line
    folder = module(root)._prepared
    (line,) = module(root, max_seq_length=32, prepared_dir=folder).problems()
    assert "was prepared with max_seq_length 64, this run needs 32" in line
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 1'))
    (line,) = module(root).problems()
    assert "was prepared by another version of finishline" in line


def test_flag_that_states_the_vocabulary_is_checked(root):
    assert "112 lines, but data.vocab_size is 30522" in module(root, vocab_size=30522).problems()[0]
