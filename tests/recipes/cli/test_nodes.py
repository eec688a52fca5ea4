"""Every node prepares its own data; what one lacks, or has otherwise, ends all with one line."""

from types import SimpleNamespace

import pytest

from recipes.cli.arguments import Arguments
from recipes.cli.nodes import prepare_on_every_node
from recipes.unet3d import BENCHMARK
from tests.recipes.cli.test_ranks import SIZE, on_all

WORDS = ["--data.root", "/my data", "--trainer.devices", "1", "--data.prepared_dir=/local"]


class Data:
    def __init__(self, train_samples=99, error=None):
        self.prepared, self.facts, self.error = 0, {"train_samples": train_samples}, error

    def prepare_data(self):
        self.prepared += 1
        if self.error:
            raise self.error

    def mllog_facts(self):
        return {**self.facts, "samples_per_epoch": 3}

    def differences(self):
        return []


def prepare(*nodes):
    """Prepare on one rank of each node."""

    def one(ranks):
        cli = SimpleNamespace(datamodule=nodes[ranks.rank], demo=False, division="closed",
                              command="fit", arguments=Arguments(WORDS))  # fmt: skip
        return prepare_on_every_node(BENCHMARK, cli, ranks)

    return on_all(one)


@pytest.fixture(autouse=True)
def script(monkeypatch):
    monkeypatch.setattr("sys.argv", ["pytest"])
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_each_node_prepares_its_own():
    nodes = [Data() for _ in range(SIZE)]
    assert prepare(*nodes) == [None] * SIZE
    assert [node.prepared for node in nodes] == [1] * SIZE


def test_only_the_first_rank_of_a_node_prepares(monkeypatch):
    monkeypatch.setenv("SLURM_LOCALID", "1")
    nodes = [Data() for _ in range(SIZE)]
    prepare(*nodes)
    assert [node.prepared for node in nodes] == [0] * SIZE


def test_a_node_that_lacks_the_data_is_told_with_what_to_do_there():
    first, *others = prepare(Data(), Data(), Data(error=FileNotFoundError("/local: nothing")))
    assert str(first).endswith(
        ": /local: nothing; on that node: python recipes/unet3d.py prepare "
        "--data.root '/my data' --data.prepared_dir=/local"
    )
    assert [error.code for error in others] == [1, 1]


def test_nodes_with_unequal_data_do_not_train():
    first, *_ = prepare(Data(), Data(98), Data())
    assert "the data differs from that on " in str(first)
    assert "{'train_samples': 98} instead of {'train_samples': 99}" in str(first)
