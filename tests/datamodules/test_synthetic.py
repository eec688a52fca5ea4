"""Synthetic data: the facts of the closed data sets and batches, without any file."""

import importlib
from pathlib import Path

import pytest
import torch

from modules.dlrm.net import TABLE_SIZES

STEMS = sorted(path.stem for path in (Path(__file__).parents[2] / "recipes").glob("[a-z]*.py"))
LARGE, SMALL = 1e15, 1e9


@pytest.fixture
def make(monkeypatch, tmp_path):
    """Make a data module with closed defaults; its cache must stay empty."""
    monkeypatch.setenv("FINISHLINE_CACHE", str(tmp_path))

    def make(stem, memory=LARGE, **settings):
        benchmark = importlib.import_module(f"recipes.{stem}").BENCHMARK
        data = benchmark.datamodule_class()(batch_size=2, **settings)
        return data, data.use_synthetic_data(memory)

    yield make
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("stem", STEMS)
def test_closed_networks_need_no_other_arguments(stem, make):
    """What the data fix are the defaults of the reference network."""
    data, scaled = make(stem)
    assert not scaled
    benchmark = importlib.import_module(f"recipes.{stem}").BENCHMARK
    import inspect

    net = inspect.signature(benchmark.module_class()).parameters["net"].default
    defaults = {k: p.default for k, p in inspect.signature(net).parameters.items()}
    facts = {name: value for name, value in data.net_facts().items() if name in defaults}
    assert facts or stem == "unet3d"
    for name, value in facts.items():
        fixed = defaults[name]
        assert tuple(value) == tuple(fixed) if isinstance(fixed, tuple | list) else value == fixed


@pytest.mark.parametrize("stem", STEMS)
def test_batches_have_the_wanted_number_of_samples(stem, make):
    data, _ = make(stem)
    assert data.synthetic
    training = data.synthetic_batch()
    counted = {"bert": "random_next", "rnnt": "audio", "minigo": "outcome"}.get(stem, "image")
    counted = "label" if stem.startswith("dlrm") else counted
    tokens = isinstance(training, torch.Tensor)  # language models: a batch is one tensor
    assert len(training if tokens else training[counted]) == 2
    for size in (1, 3):
        batch, samples = data.synthetic_evaluation_batch(size)
        if stem == "minigo":
            assert (batch.tolist(), samples) == ([*range(size)], 2 * size)
        elif stem == "unet3d":
            assert batch["image"].shape == (1, 1, 64 + 64 * size, 128, 128)
            assert samples == size
        else:
            assert len(batch if tokens else batch[counted]) == samples == size


def test_tables_are_those_of_the_network_and_cut_to_memory(make):
    assert make("dlrm")[0].table_sizes == TABLE_SIZES
    data, lines = make("dlrm", SMALL)
    assert sum(data.table_sizes) * 512 == pytest.approx(SMALL, rel=1e-3)
    assert min(data.table_sizes) == 1
    assert lines == ["tables 89.5 -> 0.9 GiB (1/96.1 of the rows)"]
    ids = data.synthetic_batch()["sparse"]
    assert bool((ids < torch.tensor(data.table_sizes)).all())


def test_search_trees_are_cut_to_memory(make):
    data, lines = make("minigo", SMALL)
    assert data.games_at_once < 256
    assert lines == [f"games at once 256 -> {data.games_at_once} (1/{256 // data.games_at_once})"]


def test_lengths_have_the_published_means(make):
    utterances = make("rnnt")[0]
    train, dev = (utterances._num_samples(split) / 16_000 for split in ("train", "dev"))
    # LibriSpeech: 961 hours of 281,241 utterances; dev-clean: 5.4 hours of 2,703.
    assert train.mean() == pytest.approx(961 * 3600 / 281_241, rel=0.02)
    assert dev.mean() == pytest.approx(5.4 * 3600 / 2_703, rel=0.02)
    words = make("bert")[0]
    words.batch_size = 200
    assert len(words.synthetic_batch()["input_ids"]) / 200 == pytest.approx(256, rel=0.05)


def test_a_data_module_without_synthetic_data_says_so():
    from datamodules.common.base import BenchmarkDataModule

    with pytest.raises(NotImplementedError, match="BenchmarkDataModule has no synthetic data"):
        BenchmarkDataModule().use_synthetic_data(LARGE)
