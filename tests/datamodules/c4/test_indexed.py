"""Megatron's files: the bytes of the layout, and one line for each way that they can be wrong."""

import struct

import numpy as np
import pytest

from datamodules.c4.indexed import (
    Pair,
    index_bytes,
    map_tokens,
    read_header,
    token_type,
    write_index,
)
from datamodules.c4.prepare import Job, check_index, check_pair

LENGTHS = np.array([5, 3, 0, 4], np.int32)


@pytest.fixture
def pair(tmp_path):
    """Twelve tokens of four documents."""
    pair = Pair.of(tmp_path / "c4-train.en_6_text_document")
    pair.bin.write_bytes(np.arange(12, dtype="<u2").tobytes())
    write_index(pair.idx, "uint16", LENGTHS)
    return pair


def test_the_bytes_are_those_of_the_format(pair):
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 4, 5)
    body = struct.pack("<4i", 5, 3, 0, 4) + struct.pack("<4q", 0, 10, 16, 16)
    assert pair.idx.read_bytes() == head + body + struct.pack("<5q", 0, 1, 2, 3, 4)
    assert read_header(pair.idx) == ("uint16", 4, 5)
    assert map_tokens(pair.bin, "uint16").tolist() == [*range(12)]


def test_sizes_of_the_published_files():
    assert index_bytes(45_608_611) == 912_172_262
    assert index_bytes(91_205) == 1_824_142


@pytest.mark.parametrize(("size", "name"), [(65_499, "uint16"), (65_500, "int32")])
def test_short_vocabularies_have_short_tokens(size, name):
    assert token_type(size) == name


def patched(path, at, form, value):
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, at, value)
    path.write_bytes(content)


# Place in the file, form and value that is written there; words of the error.
DAMAGE = {
    "magic": (0, "<B", 0, "is not an index of Megatron"),
    "version": (9, "<Q", 2, "version 2 of the format"),
    "type": (17, "<B", 7, "type code 7 is none of whole numbers"),
    "wider type": (17, "<B", 4, "its type is int32, but it counts 2 bytes a token"),
    "count": (18, "<Q", 5, "its header means 5 sequences"),
    "huge count": (18, "<Q", 2**63, "its header means 9,223,372,036,854,775,808 sequences"),
    "length": (34, "<i", 6, "document 1 does not begin where the one before ends"),
    "last length": (46, "<i", 5, "lists 13 tokens of type uint16, 26 bytes"),
    "negative length": (34, "<i", -1, "document 0 has -1 tokens"),
    "offset": (58, "<q", 8, "document 1 does not begin where"),
    "bound": (90, "<q", 7, "its bounds of documents are not 0, 1, 2"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named_in_one_line(pair, what):
    at, form, value, words = DAMAGE[what]
    patched(pair.idx, at, form, value)
    with pytest.raises(ValueError, match=words) as error:
        check_index(pair)
    assert str(pair.idx.with_suffix("")) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bytes_left", [0, 5, 33, 34, 100])
def test_a_truncated_index_is_named(pair, bytes_left):
    pair.idx.write_bytes(pair.idx.read_bytes()[:bytes_left])
    with pytest.raises(ValueError, match="not an index of Megatron|its header means"):
        check_index(pair)


def test_tokens_of_another_type_are_named(pair):
    pair.bin.write_bytes(np.arange(12, dtype="<i4").tobytes())
    with pytest.raises(ValueError, match=r"has 48 bytes, .*\(it would be of 4 bytes a token\)"):
        check_index(pair)


@pytest.mark.parametrize("change", [-1, -2, 2])
def test_tokens_of_another_length_are_named(pair, change):
    content = pair.bin.read_bytes()
    pair.bin.write_bytes(content[:change] if change < 0 else content + bytes(change))
    with pytest.raises(ValueError, match=f"has {24 + change} bytes, but .* 24 bytes"):
        check_index(pair)


def test_an_index_of_several_sequences_a_document_is_refused(pair):
    content = bytearray(pair.idx.read_bytes())
    struct.pack_into("<Q", content, 26, 4)
    pair.idx.write_bytes(content[:-8])
    with pytest.raises(ValueError, match="3 documents of 4 sequences"):
        check_index(pair)


def job(pair, **settings):
    tokenizer = pair.bin.with_name("tokenizer.json")
    names = pair.bin.name, pair.idx.name
    defaults = {"pair": pair, "vocab_size": 12, "tokenizer": tokenizer, "md5s": {}, "names": names}
    return Job(**defaults | settings)


def test_an_id_past_the_vocabulary_is_named_with_its_document(pair):
    assert check_pair(job(pair)).result["tokens"] == 12
    with pytest.raises(ValueError, match=r"document 3 has the id 11, but data.vocab_size is 11"):
        check_pair(job(pair, vocab_size=11))


def test_documents_without_any_token_are_refused(pair):
    write_index(pair.idx, "uint16", np.zeros(4, np.int32))
    pair.bin.write_bytes(b"")
    with pytest.raises(ValueError, match="idx: none of its documents has a token"):
        check_index(pair)


def test_a_negative_id_is_named(tmp_path):
    pair = Pair.of(tmp_path / "c4-train.en_6_text_document")
    pair.bin.write_bytes(np.array([1, -2, 3], "<i4").tobytes())
    write_index(pair.idx, "int32", np.array([1, 2]))
    with pytest.raises(ValueError, match="document 1 has the id -2"):
        check_pair(job(pair))


@pytest.mark.parametrize("which", ["bin", "idx"])
def test_a_listed_md5_counts(pair, which):
    path = getattr(pair, which)
    with pytest.raises(ValueError, match=f"{path.name}: MD5 .* the list next to it has 00000"):
        check_pair(job(pair, md5s={path.name: "0" * 32}))
    import hashlib

    right = {path.name: hashlib.md5(path.read_bytes()).hexdigest()}
    assert check_pair(job(pair, md5s=right)).result["documents"] == 4


def test_marks_at_the_ends_of_documents_are_counted(tmp_path):
    pair = Pair.of(tmp_path / "c4-train.en_6_text_document")
    ids = [[128_000, 5, 128_001], [6, 128_001], [7], []]
    pair.bin.write_bytes(np.array([i for each in ids for i in each], "<i4").tobytes())
    write_index(pair.idx, "int32", np.array([len(each) for each in ids]))
    facts = check_pair(job(pair, vocab_size=128_256)).result
    assert facts["starts_marked"] == pytest.approx(1 / 3)
    assert facts["ends_marked"] == pytest.approx(2 / 3)
