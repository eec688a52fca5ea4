"""What the text must be: encoding, lines, parts, held-out articles, the published text."""

import random

import pytest

from datamodules.wikipedia.demo import VOCAB_SIZE
from datamodules.wikipedia.text import MAX_LINE_CHARACTERS, find_parts
from tests.datamodules.wikipedia.small_module import eval_md5, module


def test_vocabulary_of_another_size_is_refused(root):
    with pytest.raises(ValueError, match=f"{VOCAB_SIZE} lines, but data.vocab_size is 30522"):
        module(root, vocab_size=30522).prepare_data()


def test_text_that_is_not_utf8_names_file_and_line(root):
    path = next(iter(find_parts(root / "results4", 3).values()))
    lines = path.read_bytes().split(b"\n")
    lines[4] = b"caf\xe9"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=rf"{path.name}: line 5 is not UTF-8"):
        module(root).prepare_data()


def test_text_with_a_hole_names_file_and_line(root):
    path = next(iter(find_parts(root / "results4", 3).values()))
    lines = path.read_bytes().split(b"\n")
    lines[4] = bytes(512)
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=rf"{path.name}: line 5 has NUL bytes; fetch"):
        module(root).prepare_data()


def test_over_long_line_is_refused(root):
    path = next(iter(find_parts(root / "results4", 3).values()))
    lines = path.read_text().split("\n")
    lines[7] = "x" * (MAX_LINE_CHARACTERS + 1)
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"{path.name}: line 8 has more than 1,000,000 char"):
        module(root).prepare_data()
    lines[7] = ". " * (MAX_LINE_CHARACTERS // 2)
    path.write_text("\n".join(lines))
    module(root).prepare_data()


def test_missing_part_is_named(root):
    path = next(iter(find_parts(root / "results4", 3).values()))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of the 3 parts needed .*{path.name}"):
        module(root).prepare_data()
    assert any(path.name in line for line in module(root).problems())


def test_changed_held_out_article_is_named(root):
    text = root / "results4" / "eval.txt"
    articles = text.read_text().split("\n\n")
    articles[3] += "\nMore."
    text.write_text("\n\n".join(articles))
    with pytest.raises(ValueError, match="article 3 has MD5"):
        module(root).prepare_data()


def test_text_that_is_not_the_published_one_is_refused_by_default(root, monkeypatch):
    monkeypatch.setattr("datamodules.wikipedia.text.PUBLISHED_PARTS", 8)
    with pytest.raises(ValueError, match="eval.txt: MD5 .*published file has 2a220f79"):
        module(root, published_text=True).prepare_data()


def test_empty_held_out_articles_are_accepted(root):
    text = root / "results4" / "eval.txt"
    text.write_text("\n\n".join(["", *text.read_text().split("\n\n"), ""]))
    (root / "results4" / "eval.md5").write_text("\n".join(eval_md5(root / "results4")) + "\n")
    data = module(root)
    data.prepare_data()
    assert data.mllog_facts()["eval_samples"] > 0


def test_identical_parts_are_refused(root):
    first, second, *_ = find_parts(root / "results4", 3).values()
    second.write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=f"{second.name} and {first.name} are identical"):
        module(root).prepare_data()


def test_mostly_repeated_articles_are_refused(root):
    parts = list(find_parts(root / "results4", 3).values())
    articles = parts[0].read_text().removesuffix("\n").split("\n\n")
    for seed, path in enumerate(parts):
        mixed = articles * 20
        random.Random(seed).shuffle(mixed)
        path.write_text("\n\n".join(mixed) + "\n")
    with pytest.raises(ValueError, match="articles are repeated"):
        module(root).prepare_data()
