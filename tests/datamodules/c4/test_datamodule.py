"""Batches of C4: which tokens they hold, on any number of ranks, and what fit and doctor say."""

import os
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.c4 import C4DataModule, published
from datamodules.c4.indexed import Pair, map_lengths, map_tokens, token_type, write_index
from datamodules.c4.order import make_order
from datamodules.c4.published import SPLITS, Split, find_pair
from datamodules.common.sampling import SampleKey
from recipes.cli.arguments import Arguments
from recipes.cli.data import data_module
from recipes.cli.data_check import check_data
from recipes.cli.usage import UsageError
from tests.datamodules.c4.corpus import texts, train_tokenizer, write_corpus

S, V = 12, 500


def write_pair(stem, seed, documents=60, vocab_size=V):
    """Token files of random documents, some without tokens."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 40, documents).astype(np.int32)
    dtype = token_type(vocab_size)
    Pair.of(stem).bin.write_bytes(rng.integers(0, V, lengths.sum()).astype(dtype).tobytes())
    write_index(Pair.of(stem).idx, dtype, lengths)


@pytest.fixture
def root(tmp_path):
    """A root with both pairs under their published names."""
    for seed, split in enumerate(SPLITS.values()):
        write_pair(tmp_path / split.stem, seed)
    return tmp_path


def module(root, **settings):
    return C4DataModule(
        **{"root": root, "seq_length": S, "vocab_size": V, "eval_sequences": 7} | settings
    )


def stream(root, split, seed=None):
    """All tokens of a split in the order of its file, or of an epoch."""
    pair = find_pair(root, split)
    tokens, lengths = map_tokens(pair.bin, "uint16"), map_lengths(pair.idx, 60)
    parts = np.split(tokens, np.cumsum(lengths)[:-1])
    if seed is not None:
        parts = [parts[i] for i in make_order(lengths, S, seed).documents]
    return np.concatenate(parts).astype(int)


def trainer(rank=0, ranks=1, batches=0, accumulation=1):
    """What a data module reads of a trainer."""
    progress = SimpleNamespace(
        current=SimpleNamespace(completed=batches),
        total=SimpleNamespace(ready=batches, started=batches, processed=batches, completed=batches),
        is_last_batch=False,
    )
    epochs = SimpleNamespace(current=SimpleNamespace(started=1, processed=0))
    loop = SimpleNamespace(
        epoch_progress=epochs, epoch_loop=SimpleNamespace(batch_progress=progress)
    )
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(
        global_rank=rank, world_size=ranks, accumulate_grad_batches=accumulation, fit_loop=loop,
        strategy=strategy, state=SimpleNamespace(fn="fit"),
    )  # fmt: skip


def test_training_covers_the_shuffled_stream_once(root):
    data = module(root, batch_size=5)
    data.prepare_data()
    batches = list(data.train_dataloader())
    assert all(batch.shape == (5, S + 1) and batch.dtype == torch.int64 for batch in batches)
    tokens = stream(root, "train", seed=1234)
    count = (len(tokens) - 1) // S
    wanted = [tuple(tokens[i * S : i * S + S + 1]) for i in range(count)]
    order = make_order(map_lengths(find_pair(root, "train").idx, 60), S, 1234).samples
    rows = [tuple(row.tolist()) for batch in batches for row in batch]
    assert rows[:count] == [wanted[i] for i in order]
    assert len(rows) == data.samples_per_epoch == -(-count // 5) * 5
    assert (
        rows[count:] == rows[: len(rows) - count]
    )  # the epoch's own first ones fill its last step


def test_each_epoch_has_another_order(root):
    data = module(root)
    data.prepare_data()
    sequences = data._sequences("train")
    epochs = [[tuple(sequences[SampleKey(i, e, 0)].tolist()) for i in range(20)] for e in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]


def test_evaluation_is_the_start_of_the_file_in_order(root):
    data = module(root, evaluation_batch_size=3)
    data.prepare_data()
    tokens = stream(root, "validation")
    batches = list(data.val_dataloader())
    assert [len(batch) for batch in batches] == [3, 3, 1]
    for i, row in enumerate(torch.cat(batches)):
        assert row.tolist() == tokens[i * S : i * S + S + 1].tolist()


def test_ranks_share_out_the_same_batches_and_a_resumed_run_goes_on(root):
    def rows(ranks, rank, batches=0):
        data = module(root, batch_size=4 // ranks, evaluation_batch_size=2)
        data.prepare_data()
        data.trainer = trainer(rank, ranks, batches)
        train = [batch.tolist() for batch in data.train_dataloader()]
        return train, [batch.tolist() for batch in data.val_dataloader()]

    (train, held_out), (train_0, held_0), (train_1, held_1) = rows(1, 0), rows(2, 0), rows(2, 1)
    assert train == [
        [row for pair in zip(a, b, strict=True) for row in pair]
        for a, b in zip(train_0, train_1, strict=True)
    ]
    assert held_out == [held_0[0], held_1[0], held_0[1], held_1[1]]
    assert rows(1, 0, batches=3)[0] == train[3:]


def test_a_dataset_that_was_sent_to_another_process_opens_its_files_again(root):
    data = module(root, batch_size=2)
    data.prepare_data()
    sequences = data._sequences("train")
    here = sequences[SampleKey(3, 0, 0)]
    sent = pickle.dumps(sequences)
    assert len(sent) < 2000
    assert torch.equal(pickle.loads(sent)[SampleKey(3, 0, 0)], here)


@pytest.mark.slow
def test_loader_processes_under_spawn_give_the_same_batches(root):
    data = module(root, batch_size=2)
    data.prepare_data()
    wanted = [batch.tolist() for batch in data.train_dataloader()]
    data.num_workers = 2
    loader = data.train_dataloader()
    loader.multiprocessing_context = "spawn"
    assert [batch.tolist() for batch in loader] == wanted


def test_ready_data_is_not_read_again_and_no_tokens_before_a_sample(root):
    module(root).prepare_data()
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    data = module(root)
    data.prepare_data()
    data.setup("fit")
    data.mllog_facts()
    assert not [path for path in opened if path.endswith((".bin", "records.jsonl"))]
    before = len(opened)
    next(iter(data.train_dataloader()))
    assert [path for path in opened[before:] if path.endswith(".bin")]


def test_counts_are_logged_and_those_of_the_benchmark_are_no_difference(root, monkeypatch):
    data = module(root)
    data.prepare_data()
    tokens = {split: len(stream(root, split)) for split in SPLITS}
    assert data.mllog_facts() == {
        "train_samples": (tokens["train"] - 1) // S,
        "eval_samples": 7,
        "max_sequence_length": S,
    }
    assert data.differences() == [
        "60 train documents instead of 45,608,611",
        f"{tokens['train']:,} train tokens instead of 20,994,193,570",
        "60 validation documents instead of 91,205",
        f"{tokens['validation']:,} validation tokens instead of 41,642,091",
    ]
    sheet = SimpleNamespace(dataset="C4")
    with pytest.raises(UsageError, match="60 train documents instead of 45,608,611"):
        check_data(sheet, data, "closed")
    check_data(sheet, data, "open")
    same = {name: Split(split.stem, 60, tokens[name]) for name, split in SPLITS.items()}
    monkeypatch.setattr(published, "SPLITS", same)
    assert data.differences() == []


def test_differences_are_known_before_anything_is_prepared(root):
    before = module(root).differences()
    module(root).prepare_data()
    assert before == module(root).differences()
    assert len(before) == 4


def test_a_published_epoch_has_the_sequences_that_the_rules_mean():
    data = C4DataModule()
    data.use_synthetic_data(1e9)
    assert data.samples_per_epoch == 2_562_767
    assert data.mllog_facts()["eval_samples"] == 1024
    batch, count = data.synthetic_evaluation_batch(2)
    assert (tuple(batch.shape), count) == ((2, 8193), 2)
    assert 0 <= int(batch.min()) <= int(batch.max()) < 128_256


def test_too_little_text_is_told_with_the_flag_that_helps(root):
    data = module(root, seq_length=100, eval_sequences=50)
    data.prepare_data()
    count = (len(stream(root, "validation")) - 1) // 100
    with pytest.raises(
        ValueError, match=rf"gives {count} sequences .* --data.eval_sequences {count} "
    ):
        data.setup("validate")
    data = module(root, batch_size=1000)
    data.prepare_data()
    with pytest.raises(ValueError, match="global batch of 1,000 sequences is larger"):
        data.setup("fit")


def test_own_files_are_found_by_their_names(root):
    pairs = {split: find_pair(root, split) for split in SPLITS}
    for split, name in (("train", "my_train"), ("validation", "my_val")):
        for path in pairs[split]:
            path.rename(path.with_name(f"{name}{path.suffix}"))
    module(root).prepare_data()
    assert find_pair(root, "train").bin.name == "my_train.bin"
    write_pair(root / "other_train", 5)
    with pytest.raises(ValueError, match="my_train.idx, other_train.idx could all be for train"):
        find_pair(root, "train")


def test_what_is_missing_is_named_with_where_to_get_it(tmp_path, root):
    (line,) = module(tmp_path / "nothing").problems()
    for settings in ({"root": tmp_path / "nothing"}, {"root": None, "raw": tmp_path / "nothing"}):
        with pytest.raises(FileNotFoundError, match="nothing is not a directory"):
            module(**settings).prepare()
    assert not (tmp_path / "nothing").exists()
    assert line.startswith(f"data root {tmp_path / 'nothing'} is not a directory; get MLCommons'")
    for words in ("85 GB", "ODC-BY", "docs/llama31_8b.md", ".uri"):
        assert words in line
    pair = find_pair(root, "validation")
    pair.bin.unlink()
    assert module(root).problems()[0].startswith(f"{pair.bin} is missing; get MLCommons'")
    write_corpus(tmp_path / "text")
    assert "prepare --data.raw" in module(tmp_path / "text").problems()[0]
    with pytest.raises(FileNotFoundError, match=r"prepare --data.raw"):
        module(tmp_path / "text").prepare_data()


def test_files_that_changed_since_they_were_checked_are_told(root):
    module(root).prepare()
    pair = find_pair(root, "train")
    content = pair.bin.read_bytes()
    pair.bin.write_bytes(content[:-4])
    line = module(root).problems()[0]
    sizes = f"has {len(content) - 4} of {len(content)} bytes"
    assert line == f"{pair.bin} {sizes}; run the recipe's prepare command"
    with pytest.raises(ValueError, match="of .* bytes; run the recipe's prepare"):
        module(root).prepare_data()
    with pytest.raises(ValueError, match="has .* bytes, but .* lists"):
        module(root).prepare()
    pair.bin.write_bytes(content)
    module(root).prepare()
    assert module(root).problems() == []


@pytest.mark.parametrize("elsewhere", [False, True])
def test_bytes_that_changed_are_noticed_by_prepare(root, tmp_path, capsys, elsewhere):
    settings = {"prepared_dir": tmp_path / "prepared"} if elsewhere else {}
    module(root, **settings).prepare()
    pair = find_pair(root, "train")
    before = pair.bin.stat()
    tokens = map_tokens(pair.bin, "uint16").copy()
    tokens[100] ^= 1
    pair.bin.write_bytes(tokens.tobytes())
    os.utime(pair.bin, ns=(before.st_atime_ns, before.st_mtime_ns))
    module(root, **settings).prepare()
    assert (
        f"{pair.bin.name} changed since it was written; preparing it again"
        in capsys.readouterr().out
    )
    module(root, **settings).prepare()
    assert "changed since" not in capsys.readouterr().out
    tokens[100] = V
    pair.bin.write_bytes(tokens.tobytes())
    with pytest.raises(ValueError, match=f"has the id {V}"):
        module(root, **settings).prepare()
    assert not list(tmp_path.rglob("manifest.json"))


def test_another_vocabulary_is_not_taken_for_checked(root):
    module(root).prepare()
    with pytest.raises(ValueError, match="was prepared with vocab_size 500, this run needs 400"):
        module(root, vocab_size=400).prepare_data()


def test_a_root_that_was_not_prepared_is_checked_by_fit(root):
    pair = find_pair(root, "train")
    tokens = map_tokens(pair.bin, "uint16").copy()
    tokens[100] = V
    pair.bin.write_bytes(tokens.tobytes())
    with pytest.raises(ValueError, match=f"has the id {V}, but data.vocab_size is {V}"):
        module(root).prepare_data()


def test_a_held_out_document_in_the_training_file_is_told(root):
    train, held_out = (find_pair(root, split) for split in SPLITS)
    lengths = map_lengths(held_out.idx, 60)
    longest = int(lengths.argmax())
    start = int(lengths[:longest].sum())
    copied = map_tokens(held_out.bin, "uint16")[start : start + lengths[longest]]
    with train.bin.open("ab") as file:
        file.write(copied.tobytes())
    ours = np.append(map_lengths(train.idx, 60).copy(), lengths[longest])
    write_index(train.idx, "uint16", ours)
    with pytest.raises(
        ValueError, match=rf"1 documents are also in .* document 60, which is {longest}"
    ):
        module(root).prepare()


def test_a_tokenizer_of_other_text_beside_the_data_is_told(tmp_path):
    write_corpus(tmp_path)
    data = C4DataModule(raw=tmp_path, seq_length=S, vocab_size=300, num_shards=2, eval_sequences=4)
    data.prepare()
    assert data.encode(data.decode([5, 6, 7])) == [5, 6, 7]
    train_tokenizer(texts(3)).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="is not the tokenizer of .*_document.bin: of its first"):
        C4DataModule(root=tmp_path, seq_length=S, vocab_size=300).prepare()
    (tmp_path / "tokenizer.json").unlink()
    plain = C4DataModule(root=tmp_path, seq_length=S, vocab_size=300)
    plain.prepare()
    assert plain.decode([5]) is plain.encode("a") is None


def test_notes_tell_the_cost_and_the_marks(root):
    first = module(root).notes()
    assert len(first) == 1
    assert "order of 60 documents takes 0.0 GB of memory" in first[0]
    (published,) = module(root / "nothing", seq_length=8192).notes()
    assert "order of 45,608,611 documents takes 1.3 GB" in published
    assert f"0.2 GB in {root / 'nothing'}/finishline-c4/orders" in published
    module(root).prepare()
    assert "0.0% of the first documents start with the id 128000" in module(root).notes()[1]


def test_demos_with_other_vocabularies_live_side_by_side(monkeypatch, tmp_path):
    from datamodules.c4 import demo

    monkeypatch.setenv("FINISHLINE_CACHE", str(tmp_path))
    monkeypatch.setattr(demo, "DOCUMENTS_PER_SHARD", 60)
    for vocab_size in (900, 70_000, 900):
        data = C4DataModule(seq_length=32, vocab_size=vocab_size, eval_sequences=9)
        data.prepare()
        assert next(iter(data.train_dataloader())).max() < 900
    assert len(list((tmp_path / "demo").glob("c4-*"))) == 2


def test_a_training_file_without_a_sequence_is_told(root):
    write_pair(root / SPLITS["train"].stem, 0, documents=1)
    data = module(root, seq_length=100)
    data.prepare_data()
    with pytest.raises(ValueError, match="training split of 0"):
        data.setup("fit")


def test_text_without_a_root_is_not_taken_for_the_demo(tmp_path):
    sheet = SimpleNamespace(name="x", dataset="C4", datamodule_class=lambda: C4DataModule)
    config = data_module(sheet, "prepare", Arguments(["--data.raw", str(tmp_path)]))
    assert (config.data.root, config.data.demo, config.data.seq_length) == (tmp_path, False, 8192)


def test_numbers_out_of_range_are_named():
    with pytest.raises(ValueError, match="must be at least") as error:
        C4DataModule(batch_size=0, seq_length=-1, num_workers=-2, num_shards=300)
    assert str(error.value).splitlines() == [
        "batch_size must be at least 1, got 0",
        "seq_length must be at least 1, got -1",
        "num_workers must be at least 0, got -2",
        "num_shards must be at most 256, got 300",
    ]
