"""Checkpoints of TensorFlow 1, transformers and torch load; optimizer state does not."""

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from modules.bert.checkpoint import RULES, load_checkpoint, our_name
from modules.bert.net import Bert
from modules.common.snappy import decompress
from modules.common.tensor_bundle import MAGIC, TensorBundle

DATA = Path(__file__).parent / "data"
SMALL = {"vocab_size": 31, "hidden_size": 8, "num_layers": 2, "num_heads": 2,
         "intermediate_size": 16, "max_positions": 12}  # fmt: skip
# Of the files in DATA.
TINY = {"vocab_size": 7, "hidden_size": 4, "num_layers": 2, "num_heads": 2,
        "intermediate_size": 6, "max_positions": 5}  # fmt: skip

TF_NAMES = {
    "embeddings.word.weight": "bert/embeddings/word_embeddings",
    "embeddings.position.weight": "bert/embeddings/position_embeddings",
    "embeddings.segment.weight": "bert/embeddings/token_type_embeddings",
    "embeddings.norm.weight": "bert/embeddings/LayerNorm/gamma",
    "embeddings.norm.bias": "bert/embeddings/LayerNorm/beta",
    "pooler.weight": "bert/pooler/dense/kernel",
    "pooler.bias": "bert/pooler/dense/bias",
    "transform.weight": "cls/predictions/transform/dense/kernel",
    "transform.bias": "cls/predictions/transform/dense/bias",
    "transform_norm.weight": "cls/predictions/transform/LayerNorm/gamma",
    "transform_norm.bias": "cls/predictions/transform/LayerNorm/beta",
    "output_bias": "cls/predictions/output_bias",
    "next_sentence.weight": "cls/seq_relationship/output_weights",
    "next_sentence.bias": "cls/seq_relationship/output_bias",
}
LAYER_NAMES = {
    "query": "attention/self/query", "key": "attention/self/key",
    "value": "attention/self/value", "output": "attention/output/dense",
    "up": "intermediate/dense", "down": "output/dense",
    "attention_norm": "attention/output/LayerNorm", "norm": "output/LayerNorm",
}  # fmt: skip
for n in range(2):
    for ours, tf in LAYER_NAMES.items():
        ends = ("gamma", "beta") if "norm" in ours else ("kernel", "bias")
        for leaf, end in zip(("weight", "bias"), ends, strict=True):
            TF_NAMES[f"layers.{n}.{ours}.{leaf}"] = f"bert/encoder/layer_{n}/{tf}/{end}"


def varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def checksum(content):
    """TensorFlow's masked CRC-32C, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def block(pairs, restart_every=4):
    """A table block with shared key prefixes, as LevelDB writes it."""
    out, restarts, last = b"", [], b""
    for number, (key, value) in enumerate(pairs):
        shared = 0
        if number % restart_every == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        last = key
    restarts = restarts or [0]
    return out + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def write_bundle(prefix, tensors):
    """A checkpoint as TensorFlow writes one, made from the format's description."""
    numbers = {"float32": 1, "int64": 9}
    data, pairs = b"", [(b"", b"\x08\x01\x1a\x02\x08\x01")]
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        shape = b""
        for size in array.shape:
            dim = b"\x08" + varint(size)
            shape += b"\x12" + varint(len(dim)) + dim
        entry = b"\x08" + varint(numbers[str(array.dtype)])
        entry += b"\x12" + varint(len(shape)) + shape
        entry += (b"\x20" + varint(len(data))) if data else b""
        entry += b"\x28" + varint(array.nbytes) + b"\x35" + checksum(array.tobytes())
        pairs.append((name.encode(), entry))
        data += array.tobytes()
    content, index = b"", []
    for at in range(0, len(pairs), 7):  # several blocks, as large checkpoints have
        body = block(pairs[at : at + 7])
        index.append(
            (pairs[min(at + 6, len(pairs) - 1)][0], varint(len(content)) + varint(len(body)))
        )
        content += body + b"\0" + checksum(body + b"\0")
    meta = block([])
    meta_handle = varint(len(content)) + varint(len(meta))
    content += meta + b"\0" + checksum(meta + b"\0")
    body = block(index, 1)
    handle = varint(len(content)) + varint(len(body))
    content += body + b"\0" + checksum(body + b"\0")
    content += (meta_handle + handle).ljust(40, b"\0") + struct.pack("<Q", MAGIC)
    prefix.with_name(prefix.name + ".index").write_bytes(content)
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)


def net(seed):
    torch.manual_seed(seed)
    made = Bert(**SMALL)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight))
    return made


def tf_tensors(source):
    """Our weights as TensorFlow keeps them, with the optimizer's state among them."""
    tensors = {}
    for name, weight in source.state_dict().items():
        array = weight.numpy()
        tf = TF_NAMES[name]
        tensors[tf] = array.T if tf.endswith("kernel") else array
        for slot in ("LAMB", "LAMB_1", "GradientAccumulator"):
            tensors[f"{tf}/{slot}"] = np.full_like(tensors[tf], 7.0)
    tensors["global_step"] = np.array(28252, dtype=np.int64)
    tensors["beta1_power"] = np.array(0.9, dtype=np.float32)
    return tensors


def assert_equal(one, other):
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


@pytest.fixture
def tf_checkpoint(tmp_path):
    source = net(1)
    prefix = tmp_path / "model.ckpt-28252"
    write_bundle(prefix, tf_tensors(source))
    return source, prefix


def test_tensorflow_1_checkpoint_loads_without_tensorflow(tf_checkpoint):
    source, prefix = tf_checkpoint
    loaded = net(2)
    load_checkpoint(loaded, prefix)
    assert_equal(loaded, source)
    again = net(3)
    load_checkpoint(again, prefix.with_name(prefix.name + ".index"))
    assert_equal(again, source)


def test_optimizer_state_is_skipped():
    for name in ("global_step", "beta2_power", "bert/pooler/dense/kernel/LAMB_1",
                 "bert/pooler/dense/bias/adam_m", "cls/predictions/output_bias/LAMB",
                 "bert/pooler/dense/kernel/GradientAccumulator"):  # fmt: skip
        assert our_name(name) is None


def test_every_weight_has_a_published_name():
    assert set(TF_NAMES) == set(net(0).state_dict())
    assert {our_name(tf) for tf in TF_NAMES.values()} == set(TF_NAMES)


@pytest.mark.parametrize("form", ["plain", "lightning"])
def test_own_torch_checkpoint_loads(tmp_path, form):
    source, path = net(1), tmp_path / "start.pt"
    state = source.state_dict()
    if form == "lightning":
        state = {"state_dict": {f"net.{k}": v for k, v in state.items()}, "loops": {}}
    torch.save(state, path)
    loaded = net(2)
    load_checkpoint(loaded, path)
    assert_equal(loaded, source)


def test_values_that_are_not_finite_are_named(tf_checkpoint):
    source, prefix = tf_checkpoint
    with torch.no_grad():
        source.pooler.bias[1] = float("nan")
    write_bundle(prefix, tf_tensors(source))
    with pytest.raises(ValueError, match="tensor pooler.bias has values that are not finite"):
        load_checkpoint(net(2), prefix)


def test_other_shape_names_tensor_and_shapes(tf_checkpoint):
    _, prefix = tf_checkpoint
    other = Bert(**{**SMALL, "vocab_size": 30})
    with pytest.raises(ValueError, match=r"embeddings.word.weight has shape \(31, 8\).*\(30, 8\)"):
        load_checkpoint(other, prefix)


def test_missing_tensor_is_named(tmp_path):
    source = net(1)
    tensors = tf_tensors(source)
    del tensors["bert/encoder/layer_1/intermediate/dense/kernel"]
    write_bundle(tmp_path / "m", tensors)
    with pytest.raises(ValueError, match="layers.1.up.weight is missing"):
        load_checkpoint(net(2), tmp_path / "m")


def test_missing_and_broken_files_get_one_line(tmp_path, tf_checkpoint):
    _, prefix = tf_checkpoint
    with pytest.raises(FileNotFoundError, match="nowhere.index: missing"):
        load_checkpoint(net(0), tmp_path / "nowhere")
    data = prefix.with_name(prefix.name + ".data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:3000])
    with pytest.raises(ValueError, match="truncated in tensor"):
        load_checkpoint(net(0), prefix)
    (tmp_path / "bad.index").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="not a TensorFlow checkpoint index"):
        TensorBundle(tmp_path / "bad")
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_checkpoint(net(0), tmp_path / "bad.safetensors")
    for number, content in enumerate((b"", b"x" * 100, b"PK\x03\x04" + b"x" * 100)):
        (tmp_path / f"{number}.pt").write_bytes(content)
        # One that begins as a zip file is told by the check of its checksums.
        with pytest.raises(
            ValueError, match=r"\.pt(: not a torch file of weights| is truncated or not)"
        ):
            load_checkpoint(net(0), tmp_path / f"{number}.pt")


@pytest.mark.parametrize("content", [[1, 2], {"word": "x"}, {"state_dict": [torch.ones(1)]}])
def test_torch_file_without_named_tensors_gets_one_line(tmp_path, content):
    torch.save(content, tmp_path / "own.pt")
    with pytest.raises(ValueError, match=r"own.pt: not a torch file of weights \(no tensors by na"):
        load_checkpoint(net(0), tmp_path / "own.pt")


@pytest.mark.parametrize("ending", ["pt", "pth", "bin"])
def test_missing_torch_file_is_named_as_it_was_given(tmp_path, ending):
    with pytest.raises(FileNotFoundError, match=f"own.{ending}: missing"):
        load_checkpoint(net(0), tmp_path / f"own.{ending}")


def published_value(name, shape):
    """The fixture's numbers; see data/bert_checkpoints/README.md."""
    count = int(np.prod(shape))
    return (zlib.crc32(name.encode()) % 97 + np.arange(count) / 16).reshape(shape)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("version", ["tf1", "tf2"])
def test_files_that_tensorflow_wrote_load(tmp_path, version, compressed):
    shutil.copytree(DATA, tmp_path / "files")
    if compressed:
        shutil.copy(DATA / "snappy" / f"{version}.index", tmp_path / "files")
    loaded = Bert(**TINY)
    load_checkpoint(loaded, tmp_path / "files" / version)
    for name, weight in loaded.state_dict().items():
        tf, shape = TF_NAMES[name], tuple(weight.shape)
        wanted = published_value(tf, shape[::-1] if tf.endswith("kernel") else shape)
        wanted = wanted.T if tf.endswith("kernel") else wanted
        assert torch.equal(weight, torch.from_numpy(wanted).float()), name


def test_unknown_variable_of_tensorflow_2_is_named(monkeypatch):
    monkeypatch.setattr("modules.bert.checkpoint.RULES", [r for r in RULES if r[1] != r"pooler.\1"])
    with pytest.raises(ValueError, match="the net has no tensor pooler_transform/"):
        load_checkpoint(Bert(**TINY), DATA / "tf2")


def test_damaged_compressed_index_gets_one_line(tmp_path):
    content = bytearray((DATA / "snappy" / "tf2.index").read_bytes())
    content[200:260] = bytes(60)
    (tmp_path / "bad.index").write_bytes(content)
    with pytest.raises(ValueError, match="bad.index: not a TensorFlow checkpoint index"):
        TensorBundle(tmp_path / "bad")


PACKED = (
    "9003f069000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223"
    "2425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b"
    "4c4d4e4f505152535455565758595a5b5c5d5e5f606162632d2d2d2d2d2dfe0400feaa008eaa0000"
    "78fe010062010000329a3601"
)
MIXED = bytes(range(100)) + b"-" * 70 + bytes(range(100)) + b"x" * 90 + bytes(range(50, 90))


# Packed by cramjam 2.14.0: short and long literals, overlapping and far copies.
@pytest.mark.parametrize(
    ("packed", "plain"),
    [
        ("00", b""),
        ("0614616263616263", b"abcabc"),
        ("51046162fe0200360200007a", b"ab" * 40 + b"z"),
        (PACKED, MIXED),
    ],
)
def test_snappy_decompresses_what_another_library_packed(packed, plain):
    assert decompress(bytes.fromhex(packed)) == plain


@pytest.mark.parametrize("packed", ["", "ffffffffff", "05", "0501ff", "0a0061" + "11" * 4])
def test_damaged_snappy_is_rejected(packed):
    with pytest.raises(ValueError, match="damaged"):
        decompress(bytes.fromhex(packed))
