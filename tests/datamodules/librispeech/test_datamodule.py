"""Bucketing, ranks, resume, batches and the demo corpus of the LibriSpeech datamodule."""

import re
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.librispeech import LibriSpeechDataModule, demo
from datamodules.librispeech.audio import batches_by_length
from datamodules.librispeech.raw import scan
from datamodules.librispeech.sampler import BucketSampler
from tests.datamodules.librispeech.tiny_librispeech import VOCABULARY, write_tiny


def sampler(lengths, **settings):
    defaults = {"batch_size": 4, "rank": 0, "world_size": 1, "seed": 3}
    return BucketSampler(lengths, **{**defaults, **settings})


@pytest.fixture
def lengths():
    return np.random.default_rng(0).integers(1, 10_000, 251)


def numbers(batches):
    return [[key.index for key in batch] for batch in batches]


def test_rows_come_from_one_bucket_or_two_neighbours(lengths):
    plan = sampler(lengths).plan(0)
    bucket = np.empty(251, dtype=int)
    for number, part in enumerate(np.array_split(np.argsort(lengths, kind="stable"), 6)):
        bucket[part] = number
    spread = bucket[plan].max(1) - bucket[plan].min(1)
    assert spread.max() <= 1
    assert (spread == 1).sum() <= 5
    firsts = bucket[plan].min(1)
    assert (np.diff(firsts) < 0).any()  # rows are shuffled, not sorted by length


def test_each_utterance_at_most_once_and_few_left_out(lengths):
    for epoch in range(3):
        plan = sampler(lengths).plan(epoch).flatten()
        assert len(plan) == len(set(plan.tolist())) == 248


def test_order_and_what_is_left_out_differ_by_epoch_and_seed(lengths):
    plans = [sampler(lengths).plan(e) for e in (0, 1)] + [sampler(lengths, seed=4).plan(0)]
    for a, b in ((0, 1), (0, 2)):
        assert not np.array_equal(plans[a], plans[b])
        assert set(plans[a].flatten()) != set(plans[b].flatten())


def test_one_bucket_is_a_plain_shuffle(lengths):
    plan = sampler(lengths, num_buckets=1).plan(0)
    assert lengths[plan].std(1).mean() > 0.7 * lengths.std()
    assert lengths[sampler(lengths).plan(0)].std(1).mean() < 0.25 * lengths.std()


def test_ranks_share_the_rows_of_one_rank(lengths):
    alone = numbers(sampler(lengths, batch_size=6))
    parts = [numbers(sampler(lengths, batch_size=2, rank=r, world_size=3)) for r in range(3)]
    assert len({len(part) for part in parts}) == 1
    for row, *shares in zip(alone, *parts, strict=True):
        assert [n for entry in zip(*shares, strict=True) for n in entry] == row


def test_accumulation_drops_rows_that_fill_no_step(lengths):
    assert len(sampler(lengths)) == 62
    assert len(sampler(lengths, accumulation=8)) == 56
    assert len(list(sampler(lengths, accumulation=8))) == 56


def test_resumed_order_is_the_rest_of_the_epoch(lengths):
    whole, cut = sampler(lengths), sampler(lengths, start_batch=20, start_epoch=2)
    whole.set_epoch(2)
    assert len(cut) == len(whole)
    assert list(cut) == list(whole)[20:]
    for both in (whole, cut):
        both.set_epoch(3)
    assert list(cut) == list(whole)


def test_too_few_utterances_for_a_step_is_an_error():
    with pytest.raises(ValueError, match="7 training utterances do not fill one step of 8"):
        sampler(np.ones(7), accumulation=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny") / "LibriSpeech")


def attached(root, *, world_size=1, rank=0, accumulation=1, **settings):
    module = LibriSpeechDataModule(
        root=root, **{"batch_size": 4, "vocab_size": VOCABULARY, **settings}
    )
    module.prepare_data()
    progress = SimpleNamespace(current=SimpleNamespace(started=0, processed=0))
    module.trainer = SimpleNamespace(
        world_size=world_size,
        global_rank=rank,
        accumulate_grad_batches=accumulation,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        fit_loop=SimpleNamespace(epoch_progress=progress),
    )
    return module


def test_batch_holds_padded_audio_and_labels(root):
    batch = next(iter(attached(root).train_dataloader()))
    assert {k: v.dtype for k, v in batch.items()} == {
        "audio": torch.int16, "audio_lengths": torch.int64, "labels": torch.int64,
        "label_lengths": torch.int64, "seed": torch.int64, "index": torch.int64,
    }  # fmt: skip
    assert batch["audio"].shape == (4, int(batch["audio_lengths"].max()))
    assert batch["labels"].shape == (4, int(batch["label_lengths"].max()))
    for row, length in zip(batch["audio"], batch["audio_lengths"], strict=True):
        assert row[length - 50 : length].any()
        assert not row[length:].any()


def test_seed_of_a_sample_depends_on_epoch_but_not_on_ranks(root):
    def seeds(epoch, **settings):
        found = {}
        for rank in range(settings.get("world_size", 1)):
            loader = attached(root, rank=rank, **settings).train_dataloader()
            loader.batch_sampler.set_epoch(epoch)
            for batch in loader:
                found |= dict(zip(batch["index"].tolist(), batch["seed"].tolist(), strict=True))
        return found

    one, two, later = seeds(0), seeds(0, world_size=2, batch_size=2), seeds(1)
    assert one == two
    assert len(set(one.values())) == 36
    assert not set(one.values()) & set(later.values())


def test_batches_after_the_first_epoch_touch_no_folder_and_open_nothing(root):
    module = attached(root)
    loaders = module.train_dataloader(), module.val_dataloader()
    for loader in loaders:
        list(loader)
    seen, watching = [], [True]
    kinds = ("open", "os.listdir", "os.scandir", "glob.glob", "os.stat")

    def watch(event: str, args: tuple[object, ...]) -> None:
        if watching and event in kinds:
            seen.append((event, args[0]))

    sys.addaudithook(watch)
    try:
        loaders[0].batch_sampler.set_epoch(1)
        assert sum(len(batch["index"]) for loader in loaders for batch in loader) == 36 + 12
    finally:
        watching.clear()
    assert seen == []


def test_a_batch_of_the_real_counts_is_planned_without_copies_of_the_whole():
    lengths = np.random.default_rng(0).integers(16_000, 267_200, 281_241)
    batches = iter(sampler(lengths, batch_size=128, accumulation=8))
    next(batches)  # plans the epoch
    tracemalloc.start()
    try:
        for _ in range(20):
            next(batches)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 100_000  # one int64 per utterance would be 2.2 MB


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_evaluation_covers_each_utterance_once(root, world_size):
    seen, seeds = [], {}
    for rank in range(world_size):
        module = attached(root, rank=rank, world_size=world_size, validation_batch_size=3)
        for batch in module.val_dataloader():
            seen += batch["index"].tolist()
            seeds |= dict(zip(batch["index"].tolist(), batch["seed"].tolist(), strict=True))
    assert sorted(seen) == list(range(12))
    again = next(iter(attached(root, validation_batch_size=12).val_dataloader()))
    assert dict(zip(again["index"].tolist(), again["seed"].tolist(), strict=True)) == seeds
    assert module.utterance_name(0) == "13-1-0000"


def test_long_utterances_leave_training_but_not_evaluation(root):
    module = attached(root, max_duration=0.3)
    limit = 0.3 * 16000
    kept = sum(n <= limit for n in module._manifest.num_samples["train"])
    assert 0 < kept < 36
    assert module.samples_per_epoch == kept // 4 * 4
    assert module.mllog_facts()["eval_samples"] == 12
    lengths = [n for batch in module.val_dataloader() for n in batch["audio_lengths"].tolist()]
    assert max(lengths) > limit
    trained = [n for batch in module.train_dataloader() for n in batch["audio_lengths"].tolist()]
    assert max(trained) <= limit


def test_limit_is_inclusive(root):
    longest = max(attached(root)._manifest.num_samples["train"])
    assert attached(root, max_duration=longest / 16000).samples_per_epoch == 36


def test_epoch_counts_whole_steps_only(root):
    module = attached(root, batch_size=2, world_size=2, accumulation=4)
    assert module.samples_per_epoch == 32
    assert module.mllog_facts()["train_samples"] == 36
    assert len(module.train_dataloader()) == 8


def test_loader_processes_give_the_same_batches(root):
    plain = list(attached(root).train_dataloader())
    forked = list(attached(root, num_workers=1).train_dataloader())
    for a, b in zip(plain, forked, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_synthetic_batch_has_the_structure_of_a_training_batch(root):
    module = attached(root)
    real, made = next(iter(module.train_dataloader())), module.synthetic_batch()
    assert real.keys() == made.keys()
    for key in real:
        assert (made[key].dtype, made[key].dim()) == (real[key].dtype, real[key].dim())
    assert made["audio"].shape[1] == max(module._manifest.num_samples["train"])
    assert made["labels"].max() < VOCABULARY


def test_evaluation_batches_are_sorted_and_complete():
    batches = batches_by_length([0, 2, 3, 5], np.array([5, 1, 9, 5, 1, 7]), 3)
    assert batches == [[2, 5, 0], [3]]


def test_wrong_numbers_are_named_all_at_once():
    with pytest.raises(ValueError, match="batch_size") as caught:
        LibriSpeechDataModule(batch_size=0, num_buckets=0, max_duration=0.0)
    assert len(str(caught.value).splitlines()) == 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    demo.write_corpus(folder)
    return folder


def test_demo_corpus_is_in_the_raw_layout(corpus):
    subsets, problems = scan(corpus)
    assert problems == []
    assert {name: len(some) for name, some in subsets.items()} == demo.PARAMETERS
    speakers = {u.key.split("-")[0] for some in subsets.values() for u in some}
    assert len(speakers) == sum(demo.SPEAKERS.values())


def test_demo_evaluation_sentences_and_speakers_are_held_out(corpus):
    subsets, _ = scan(corpus)
    held_out = subsets.pop("dev-clean")
    trained = [u for some in subsets.values() for u in some]
    assert not {u.text for u in held_out} & {u.text for u in trained}
    assert not {u.key.split("-")[0] for u in held_out} & {u.key.split("-")[0] for u in trained}
    spoken = {word for u in trained for word in u.text.split()}
    assert {word for u in held_out for word in u.text.split()} <= spoken


def test_demo_cannot_be_solved_without_listening(corpus):
    """No fixed answer comes near the target, so silence or shuffled transcripts cannot."""
    from modules.rnnt.word_errors import word_errors

    subsets, _ = scan(corpus)
    said = [u.text for u in subsets["dev-clean"]]
    answers = {u.text for some in subsets.values() for u in some}
    answers |= {word.lower() for word in demo.WORDS} | {""}
    total = sum(len(text.split()) for text in said)
    best = min(sum(word_errors(answer, text)[0] for text in said) for answer in answers)
    assert best / total > 0.7


def test_demo_is_written_alike_again(corpus, tmp_path):
    text = demo.sentences("dev-clean", excluded=set())[0]
    assert re.fullmatch("[A-Z ]+", text)
    np.testing.assert_array_equal(demo.speak(text, 4000, 0), demo.speak(text, 4000, 0))
    assert not np.array_equal(demo.speak(text, 4000, 0), demo.speak(text, 4001, 0))


def test_too_few_utterances_are_refused_before_the_warm_up(root):
    data = attached(root, batch_size=20, accumulation=2)
    data.setup("validate")
    with pytest.raises(ValueError, match="36 training utterances do not fill one step of 40"):
        data.setup("fit")
