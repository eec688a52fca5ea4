"""Patterns of shards: what users of webdataset type, and one line for what cannot be."""

import re
from pathlib import Path

import pytest

from datamodules.common.stream.pattern import (
    base_name,
    check_disjoint,
    check_pattern,
    expand,
    has_command,
    is_directory,
    show,
    sibling,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        (tmp_path / f"a-{number:03d}.tar").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "number"),
    [("a-{000..011}.tar", 12), ("a-00{1,3}.tar", 2), ("a-*.tar", 12), ("a-{000..010..5}.tar", 3)],
)
def test_braces_and_stars_of_local_paths(folder: Path, pattern: str, number: int) -> None:
    assert len(expand(f"{folder}/{pattern}", "data.shards")) == number
    assert len(expand(f"file://{folder}/{pattern}", "data.shards")) == number


def test_braces_of_addresses_and_commands_keep_the_order() -> None:
    assert expand("https://h/d/x-{08..11}.tar?sig=1", "f") == tuple(
        f"https://h/d/x-{n}.tar?sig=1" for n in ("08", "09", "10", "11")
    )
    assert expand("pipe:aws s3 cp s3://b/{0..1}.tar -", "f") == (
        "pipe:aws s3 cp s3://b/0.tar -",
        "pipe:aws s3 cp s3://b/1.tar -",
    )


def test_patterns_are_joined_as_in_webdataset_but_not_cut_in_an_address_of_ipv6() -> None:
    joined = expand("http://[::1]:80/a.tar::http://h/{1..2}.tar", "f")
    assert joined == ("http://[::1]:80/a.tar", "http://h/1.tar", "http://h/2.tar")


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ("", "is empty"),
        ("http://h/{0..9.tar", "Unbalanced braces"),
        ("http://h/{0..999999999999}.tar", "1,000,000,000,000 shards; at most 100,000"),
        ("http://h/{0..9999}/{0..9999}.tar", "100,000,000 shards"),
        ("s3://b/{0..9}.tar", "'pipe:aws s3 cp ADDRESS -'"),
        ("gs://b/0.tar", "pipe:gsutil cat ADDRESS"),
        ("ftp://h/0.tar", "ftp:// is not read"),
        ("http:///0.tar", "has no host"),
        ("http://me:secret@h/0.tar", "leave out user and password"),
    ],
)
def test_a_pattern_that_cannot_be_is_one_line(pattern: str, line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)) as caught:
        check_pattern(pattern, "data.shards")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ("b-*.tar", "matches no file"),
        ("a-{000..013}.tar", "2 of 14 shards do not exist, the first is "),
        ("a-{000,000}.tar", "a-000.tar is named twice"),
    ],
)
def test_local_shards_that_are_not_there_are_one_line(
    folder: Path, pattern: str, line: str
) -> None:
    with pytest.raises(ValueError, match=line):
        expand(f"{folder}/{pattern}", "data.shards")


def test_evaluation_shards_are_not_trained_on_by_another_name_either(folder: Path) -> None:
    (folder / "link.tar").symlink_to(folder / "a-003.tar")
    training = expand(f"{folder}/a-{{000..005}}.tar", "f")
    check_disjoint(training, expand(f"{folder}/a-{{006..007}}.tar", "f"))
    for other in ("a-005.tar", "link.tar"):
        with pytest.raises(ValueError, match="must not be trained on"):
            check_disjoint(training, expand(f"{folder}/{other}", "f"))


def test_evaluation_shards_with_the_same_content_are_not_trained_on_either(folder: Path) -> None:
    for number, text in enumerate(["one", "two"]):
        (folder / f"a-00{number}.tar").write_text(text)
    training = expand(f"{folder}/a-{{000..001}}.tar", "f")
    other = folder / "val.tar"
    other.write_text("six")
    check_disjoint(training, (str(other),))
    other.write_text("two")
    with pytest.raises(ValueError, match=r"val.tar .* holds the same as .*a-001.tar"):
        check_disjoint(training, (str(other),))
    other.unlink()
    other.hardlink_to(folder / "a-000.tar")
    with pytest.raises(ValueError, match=r"val.tar .* holds the same as .*a-000.tar"):
        check_disjoint(training, (str(other),))


def test_a_command_is_found_wherever_it_is_joined_in() -> None:
    assert has_command("pipe:cat x")
    assert has_command("a.tar:: pipe:cat x")
    assert not has_command("http://h/pipe:x.tar")
    assert not has_command(None)


def test_a_directory_is_told_from_a_pattern(folder: Path) -> None:
    assert is_directory(str(folder))
    assert is_directory("http://h/d")
    assert is_directory("http://h/d/")
    assert not is_directory(f"{folder}/a-000.tar")
    assert not is_directory("http://h/d/0.tar")
    assert not is_directory("http://h/d-{0..1}/")
    assert not is_directory("pipe:ls")


def test_names_and_neighbours() -> None:
    signed = "https://h/d/x%200.tar?sig=abc"
    assert base_name(signed) == "x 0.tar"
    assert show(signed) == "https://h/d/x%200.tar"
    assert sibling(signed, "sizes.json") == "https://h/d/sizes.json?sig=abc"
    assert sibling("/d/0.tar", "sizes.json") == "/d/sizes.json"
    assert sibling("pipe:x", "sizes.json") == base_name("pipe:x") == ""
