"""All ranks of a run do the same before their process group exists, and end together."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from torch.distributed import HashStore

from recipes.cli import ranks as module
from recipes.cli.ranks import Ranks, decided_once, ending_together
from recipes.cli.usage import UsageError

SIZE = 3


def on_all(work):
    """Call ``work`` with the ranks of one run, each in a thread; return results or exceptions."""

    def one(rank, store):
        try:
            return work(Ranks(store, rank, SIZE))
        except (Exception, SystemExit) as error:
            return error

    store = HashStore()
    with ThreadPoolExecutor(SIZE) as pool:
        return list(pool.map(one, range(SIZE), [store] * SIZE))


def test_rank_zero_decides_for_all():
    asked = []

    def decide(rank):
        asked.append(rank)
        return f"runs/{rank}"

    def twice(ranks):
        return [decided_once(ranks, partial(decide, ranks.rank)) for _ in range(2)]

    assert on_all(twice) == [["runs/0"] * 2] * SIZE
    assert asked == [0, 0]


def test_an_error_of_the_decision_ends_all_with_one_line():
    def decide():
        raise UsageError("--ckpt_path last: nothing")

    first, *others = on_all(lambda ranks: decided_once(ranks, decide))
    assert str(first) == "--ckpt_path last: nothing"
    assert [(type(error), error.code) for error in others] == [(SystemExit, 2)] * 2


@pytest.mark.parametrize("bad", [1, 2])
def test_what_one_rank_lacks_is_told_by_rank_zero_with_the_node(bad, monkeypatch):
    monkeypatch.setattr(module, "node", lambda: "n1")

    def prepare(ranks):
        with ending_together(ranks, "; prepare it"):
            if ranks.rank == bad:
                raise FileNotFoundError("data root /local is not a directory")

    first, *others = on_all(prepare)
    assert isinstance(first, ValueError)
    assert str(first) == "on n1: data root /local is not a directory; prepare it"
    assert [error.code for error in others] == [1, 1]


def test_a_rank_that_fails_early_does_not_leave_the_others_waiting():
    def work(ranks):
        with ending_together(ranks):
            if ranks.rank == 1:
                raise ValueError("early")
            return decided_once(ranks, lambda: "later")

    first, *others = on_all(work)
    assert "early" in str(first)
    assert all(isinstance(error, SystemExit) for error in others)


def test_nothing_is_said_where_all_are_well():
    def work(ranks):
        with ending_together(ranks):
            pass
        return "on"

    assert on_all(work) == ["on"] * SIZE


def test_a_launched_child_takes_what_its_parent_decided(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.delenv(module.VARIABLE, raising=False)
    assert decided_once(None, lambda: "a run") == "a run"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert decided_once(None, lambda: pytest.fail("decided twice")) == "a run"
