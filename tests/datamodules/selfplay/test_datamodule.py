"""The self-play data module: window, choice, ranks, symmetry, files."""

import errno
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from datamodules.common.sampling import SampleKey
from datamodules.selfplay import SelfPlayDataModule
from datamodules.selfplay import check as selfplay_check
from datamodules.selfplay.files import find_files, unlike_the_given
from datamodules.selfplay.gather import gather_from_all_ranks
from datamodules.selfplay.go.board import MAX_PLIES, history_length
from datamodules.selfplay.go.features import pack_planes, symmetries
from datamodules.selfplay.go.records import Examples
from datamodules.selfplay.go.tree import NODE_FIELDS, make_trees, node_bytes
from datamodules.selfplay.memory import GIB, memory_plan
from datamodules.selfplay.window import (
    WINDOW_STREAM,
    WindowExamples,
    choose_examples,
    draw_symmetries,
    extend_generation,
    make_generation,
)


def games_of(model: int, num: int, length: int = 4):
    """Games whose examples are marked with model and game."""
    parts = []
    for game in range(num):
        planes = pack_planes(np.zeros((length, 13, 25), np.uint8))
        pi = np.zeros((length, 26), np.float32)
        pi[:, game % 26] = 1
        parts.append(Examples(planes, pi, np.full(length, model * 1000 + game, np.float32)))
    return make_generation(model, parts)


def small(**settings) -> SelfPlayDataModule:
    return SelfPlayDataModule(
        **{
            "size": 5, "batch_size": 16, "games_per_generation": 8, "games_at_once": 4,
            "window": 3, "train_filter": 1.0, "slow_readouts": 8, "fast_readouts": 4,
            "pass_alive_plies": 10, "max_plies": 60, "eval_games": 4, **settings,
        }
    )  # fmt: skip


def test_window_takes_exactly_the_wanted_games_of_each_generation():
    window = [games_of(1, 8), games_of(2, 11), games_of(3, 30)]
    marks = choose_examples(window, 8, 1.0, seed=1, epoch=1).outcome.astype(int)
    assert len(marks) == 3 * 8 * 4
    for model in (1, 2, 3):
        games = [m % 1000 for m in marks if m // 1000 == model]
        assert len(set(games)) == 8
        assert all(games.count(game) == 4 for game in games)
    assert (marks != np.sort(marks)).any()
    assert (choose_examples(window, 8, 1.0, seed=1, epoch=1).outcome == marks).all()
    assert (choose_examples(window, 8, 1.0, seed=1, epoch=2).outcome != marks).any()


def test_a_choice_is_the_kept_games_joined_and_put_in_random_order():
    window = [games_of(1, 8, length=3), games_of(2, 11)]
    rng, kept = np.random.default_rng([WINDOW_STREAM, 4, 2]), []
    for _, examples, starts in window:
        picked = rng.permutation(len(starts) - 1)[:8]
        rows = np.concatenate([np.arange(starts[game], starts[game + 1]) for game in picked])
        rows = rows[rng.random(len(rows)) < 0.5]
        kept.append(Examples(*(array[rows] for array in examples)))
    order = rng.permutation(sum(len(part.outcome) for part in kept))
    chosen = choose_examples(window, 8, 0.5, seed=4, epoch=2)
    for ours, parts in zip(chosen, zip(*kept, strict=True), strict=True):
        assert (ours == np.concatenate(parts)[order]).all()


def test_filter_keeps_each_example_with_its_probability():
    kept = choose_examples([games_of(1, 400)], 400, 0.3, seed=1, epoch=1)
    assert 0.25 < len(kept.outcome) / 1600 < 0.35


def test_of_a_generation_with_fewer_games_all_are_taken():
    marks = choose_examples([games_of(4, 7), games_of(5, 9)], 8, 1.0, seed=1, epoch=0).outcome
    assert sorted({int(m) // 1000 for m in marks}) == [4, 5]
    assert (len(marks[marks < 5000]), len(marks)) == (7 * 4, (7 + 8) * 4)


def test_surplus_games_are_added_to_their_generation():
    more = extend_generation(games_of(3, 2), [games_of(3, 1, length=7).examples])
    assert more.starts.tolist() == [0, 4, 8, 15]
    assert extend_generation(more, []) is more


def test_a_batch_is_turned_alike_in_planes_and_policy():
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 2, (40, 13, 25)).astype(np.uint8)
    pi = np.concatenate([planes[:, 3].astype(np.float32), np.full((40, 1), 7.0, np.float32)], 1)
    data = WindowExamples(Examples(pack_planes(planes), pi, np.ones(40, np.float32)), 5, seed=3)
    batch = data.__getitems__([SampleKey(i, 2, 0) for i in range(40)])
    turned = batch["planes"].numpy().reshape(40, 13, 25)
    assert (batch["pi"].numpy()[:, :25] == turned[:, 3]).all()
    assert (batch["pi"][:, 25] == 7).all()
    found = set()
    for before, after in zip(planes, turned, strict=True):
        found |= {s for s, m in enumerate(symmetries(5)) if (before[:, m[:25]] == after).all()}
    assert len(found) == 8
    again = data.__getitems__([SampleKey(5, 2, 0)])
    assert torch.equal(again["planes"][0], batch["planes"][5])


@pytest.mark.parametrize("rows", [[0], [7], [12, 13, 14], [41, 3, 20], list(range(50))])
def test_symmetries_are_those_of_a_draw_for_the_whole_epoch(rows):
    whole = np.random.default_rng([73, 3, 2]).integers(8, size=60)
    assert draw_symmetries([73, 3, 2], np.array(rows)).tolist() == whole[rows].tolist()


def test_a_batch_costs_the_same_in_a_window_of_any_size():
    """Closed Mini Go has some 8 million examples in the window: 64 MB of draws per batch."""
    row = pack_planes(np.zeros((1, 13, 25), np.uint8))
    peaks = []
    for length in (1000, 8_000_000):
        planes = np.broadcast_to(row, (length, *row.shape[1:]))
        pi = np.broadcast_to(np.float32(0), (length, 26))
        data = WindowExamples(
            Examples(planes, pi, np.broadcast_to(np.float32(1), length)), 5, seed=3
        )
        keys = [SampleKey(length - 64 + i, 2, 0) for i in range(64)]
        data.__getitems__(keys)
        tracemalloc.start()
        data.__getitems__(keys)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 10_000


def test_demo_files_lie_in_the_published_layout_and_are_found():
    data = small()
    data.prepare_data()
    files = find_files(data._source)
    assert files.checkpoint.name == "model.ckpt-0"
    assert files.target.name == "target"
    assert list(files.games) == [0]
    assert len(files.games[0]) == 8
    assert "/cpu/2026-01-01-00/" in files.games[0][0].as_posix()


def test_first_epoch_takes_the_given_games_and_later_ones_are_played():
    data = small()
    data.prepare_data()
    loader = data.train_dataloader()
    assert len(loader) == data.samples_per_epoch // 16 > 0
    batch = next(iter(loader))
    assert batch["planes"].shape == (16, 13, 5, 5)
    synthetic = data.synthetic_batch()
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        k: (v.shape, v.dtype) for k, v in synthetic.items()
    }

    data.playing = lambda: equal_priors
    data._collect(1)
    assert [g.model for g in data._generations] == [0, 1]
    newest = data._generations[1]
    assert newest.games >= 8
    assert newest.starts[-1] == len(newest.examples.outcome)
    assert data.mllog_epoch_facts() == {"actual_selfplay_games_per_generation": newest.games}
    data.teardown("fit")


def equal_priors(planes):
    count = len(planes)
    return np.full((count, 26), 1 / 26, np.float32), np.zeros(count, np.float32)


@pytest.mark.parametrize("begun", [True, False])
def test_state_brings_finished_and_running_games_back(begun, tmp_path):
    data, other = small(workers=2, play_ahead=0.5), small(workers=2, play_ahead=0.5)
    for each in (data, other):
        each.prepare_data()
        each.playing = lambda: equal_priors
    data.train_dataloader()
    data._collect(1)
    if begun:
        data.begin_generation()
    torch.save(data.state_dict(), tmp_path / "state")
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for each in (data, other):
        each._collect(2)
        each.teardown("fit")
    for ours, theirs in zip(data._generations, other._generations, strict=True):
        assert ours.model == theirs.model
        assert (ours.starts == theirs.starts).all()
        assert all((a == b).all() for a, b in zip(ours.examples, theirs.examples, strict=True))
    assert data._generations[1].games > 8


def test_resumed_with_other_workers_running_games_begin_anew():
    data, other = small(workers=2), small(workers=1)
    for each in (data, other):
        each.prepare_data()
        each.playing = lambda: equal_priors
    data.train_dataloader()
    data._collect(1)
    other.load_state_dict(data.state_dict())
    other._collect(2)
    assert [g.model for g in other._generations] == [0, 1, 2]
    for each in (data, other):
        each.teardown("fit")


def on_a_rank(rank: int, folder: str) -> None:
    """Two questions: one that all ranks answer, one that fails on rank 1."""

    def answer(fails: bool) -> int:
        if fails and rank == 1:
            raise MemoryError("no room for games")
        return rank

    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    told = ""
    try:
        answers = gather_from_all_ranks(lambda: answer(False))
        gather_from_all_ranks(lambda: answer(True))
    except RuntimeError as error:
        told = str(error)
    dist.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps([answers, told]))


@pytest.mark.slow
def test_players_failing_on_one_rank_end_all_ranks(tmp_path):
    mp.set_forkserver_preload(["torch", "datamodules.selfplay"])
    mp.start_processes(on_a_rank, (str(tmp_path),), nprocs=2, start_method="forkserver")
    for rank in range(2):
        answers, told = json.loads((tmp_path / f"{rank}.json").read_text())
        assert answers == [0, 1]
        assert told == "self-play failed on rank 1: MemoryError: no room for games"


def test_missing_files_are_named_all_at_once(tmp_path):
    lines = SelfPlayDataModule(root=tmp_path).problems()
    assert len(lines) == 3
    assert any("work_dir" in line for line in lines)
    assert any("target.index" in line for line in lines)


def given(tmp_path: Path, **settings) -> SelfPlayDataModule:
    """A data module on a copy of the demo's files, as if they were the given ones."""
    source = small()
    source.prepare_data()
    shutil.copytree(source._source, tmp_path / "given")
    return small(root=tmp_path / "given", **settings)


def cut(data: SelfPlayDataModule, model: int, games: range) -> list[Path]:
    """Truncate some games."""
    files = [find_files(data.root).games[model][game] for game in games]
    for file in files:
        file.write_bytes(file.read_bytes()[:-9])
    return files


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_prepare_names_every_game_that_is_cut_off(tmp_path, monkeypatch, capsys, processes):
    monkeypatch.setattr(selfplay_check, "SERIAL_FILES", 100 if processes == 1 else 0)
    monkeypatch.setattr(selfplay_check, "processes_for", lambda items, memory: processes)
    data = given(tmp_path)
    data.prepare()
    ready = capsys.readouterr().out
    assert f"Mini Go is ready in {data.root}" in ready
    assert f"{len(data._given_generations()[0].examples.outcome)} examples" in ready
    bad = cut(data, 0, range(2, 5))
    with pytest.raises(ValueError, match="incomplete or truncated") as caught:
        data.prepare()
    assert [line.partition(": ")[0] for line in str(caught.value).splitlines()] == [
        str(file) for file in bad
    ]


def test_prepare_reads_the_newest_generations_only_as_a_run_does(tmp_path):
    data = given(tmp_path, window=1)
    games = data.root / "data" / "selfplay"
    shutil.copytree(games / "000000", games / "000001")
    cut(data, 0, range(3))
    data.prepare()
    assert [g.model for g in data._given_generations()] == [1]
    cut(data, 1, range(1))
    with pytest.raises(ValueError, match=r"000001/.*incomplete or truncated"):
        data.prepare()


def test_prepare_reads_only_what_is_new_or_has_changed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(selfplay_check, "UNIT_FILES", 5)
    read: list[str] = []
    unpack = selfplay_check.unpack_game
    monkeypatch.setattr(
        selfplay_check, "unpack_game", lambda path: read.append(path.name) or unpack(path)
    )
    data = given(tmp_path)
    data.prepare()
    assert len(read) == 8
    first = capsys.readouterr().out
    for again in (data, small(root=data.root)):
        again.prepare()
    assert len(read) == 8
    assert capsys.readouterr().out == 2 * first
    changed = find_files(data.root).games[0][6]
    changed.write_bytes(find_files(data.root).games[0][0].read_bytes())
    (line,) = data.problems()
    assert line == f"{changed} changed since it was prepared; run prepare"
    data.prepare_data()  # a run does not compare
    read.clear()
    data.prepare()
    assert read == [file.name for file in find_files(data.root).games[0][5:]]
    out = capsys.readouterr().out
    assert f"{changed} changed since it was prepared; preparing it again" in out
    assert "Note: 1 of 8 games are copies of another one" in out
    assert data.problems() == []
    assert "1 games are copies of another one" in data.differences()
    find_files(data.root).games[0][2].unlink()
    fresh = small(root=data.root)
    read.clear()
    fresh.prepare()
    assert len(read) == 7
    assert "games per model 0: 7" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["work_dir/model.ckpt-0.data-00000-of-00001", "target.index"])
def test_a_given_network_that_changed_is_noticed_by_prepare_and_doctor(tmp_path, capsys, name):
    data = given(tmp_path, prepared_dir=tmp_path / "records")
    data.prepare()
    assert data.problems() == []
    assert not (data.root / "finishline-minigo").exists()
    content = bytearray((data.root / name).read_bytes())
    content[40] ^= 1
    (data.root / name).write_bytes(content)
    (line,) = data.problems()
    assert line == f"{data.root / name} changed since it was prepared; run prepare"
    data.prepare()
    assert f"{line.removesuffix('run prepare')}preparing it again" in capsys.readouterr().out
    assert data.problems() == []


def test_prepare_for_another_board_reads_all_games_again(tmp_path):
    data = given(tmp_path)
    data.prepare()
    with pytest.raises(ValueError, match="its board is 5 x 5 but data.size is 9"):
        small(root=data.root, size=9).prepare()
    data.prepare()


def test_linked_directories_are_read_and_unreadable_ones_are_an_error(tmp_path, monkeypatch):
    data = given(tmp_path)
    games = data.root / "data/selfplay"
    (games / "000000").rename(tmp_path / "elsewhere")
    (games / "000000").symlink_to(tmp_path / "elsewhere")
    assert len(find_files(data.root).games[0]) == 8
    listdir = os.listdir

    def stale(path):
        if str(path).endswith("2026-01-01-00"):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return listdir(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", stale)
        (line,) = small(root=data.root).problems()
    assert line.endswith("000000/cpu/2026-01-01-00: cannot be read (Stale file handle)")
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "elsewhere")
    (line,) = small(root=data.root).problems()
    assert line == f"{games}/000000/again: a link to a directory that it is in; remove it"


def test_own_games_differ_from_the_benchmarks_and_train(tmp_path):
    data = given(tmp_path, games_per_generation=9)
    assert data.problems() == []
    assert data.differences() == ["games of models 0 instead of 13 to 17"]
    assert data.net_facts() == {"size": 5, "in_channels": 13}
    assert "model 0 has 8 games, fewer than the 9 of a generation" in "".join(data.notes())
    assert len(data.train_dataloader()) > 0
    assert small().differences() == []
    assert small(root=tmp_path / "nowhere").differences() == []


def test_the_given_games_are_the_benchmarks_by_models_and_counts():
    counts = dict.fromkeys(range(13, 18), 9240)
    games = lambda counts: {model: range(number) for model, number in counts.items()}  # noqa: E731
    assert unlike_the_given(games(counts)) == []
    assert unlike_the_given(games(counts | {14: 9211, 17: 9262})) == [
        "model 14 has 9,211 games instead of 9,212 to 9,261",
        "model 17 has 9,262 games instead of 9,212 to 9,261",
    ]


def test_prepare_lists_at_most_a_screen_of_damaged_games(tmp_path):
    data = given(tmp_path)
    file = find_files(data.root).games[0][0]
    for number in range(30):
        (file.parent / f"z{number:02}.tfrecord.zz").write_text("no record")
    with pytest.raises(ValueError, match="not a readable record") as caught:
        data.prepare()
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "... and 10 more of 38 games"


def test_prepare_says_in_one_line_that_games_are_of_another_board(tmp_path):
    data = given(tmp_path, size=9)
    with pytest.raises(ValueError, match="its board is 5 x 5 but data.size is 9; none of the 8"):
        data.prepare()


def test_the_doctor_counts_games_and_names_prepare_for_reading_them(tmp_path):
    data = given(tmp_path)
    cut(data, 0, range(1))
    assert data.problems() == []
    counted, few, _ = data.notes()
    assert "8 games were counted, not read; prepare reads them" in counted
    assert "games of 3 models (data.window) but the root has games of 1" in few
    assert len(small(root=data.root, window=1).notes()) == 2
    assert data.notes()[-1].startswith("memory: about 0.0 GiB per device")


def test_memory_is_told_before_the_start_and_its_lack_is_a_warning(tmp_path, monkeypatch, capsys):
    plan = memory_plan(SelfPlayDataModule(root=tmp_path, workers=2))
    # 5 x 8,192 games of 50.6 examples of 2,050 bytes; 2 x 256 trees of 2 x 928 nodes of 11,039.
    assert plan.games == pytest.approx(2.3 * 5 * 8192 * 50.64 * 2050, rel=1e-3)
    assert plan.trees == 2 * 256 * 2 * 928 * 11_039
    many, few = plan._replace(total=18 * GIB).text(2), plan._replace(total=36 * GIB).text(2)
    assert many.endswith("this machine has 18 GiB for 2 devices; reduce --data.workers or "
                         "--data.games_at_once")  # fmt: skip
    assert "reduce --data" in few
    assert "reduce --data" not in plan._replace(total=38 * GIB).text(2)
    data = given(tmp_path)
    data.prepare_data()
    assert "Warning" not in capsys.readouterr().out
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    data.prepare_data()
    assert "Warning: memory: about 0.0 GiB per device" in capsys.readouterr().out


def test_a_node_takes_what_the_plan_counts():
    trees = make_trees(7, 1, 2, 7.5)
    each = sum(getattr(trees, name).nbytes for name in NODE_FIELDS) / len(trees.parent)
    assert node_bytes(7) == each


def test_missing_data_of_a_checkpoint_is_named(tmp_path):
    data = given(tmp_path)
    (data.root / "work_dir/model.ckpt-0.data-00000-of-00001").unlink()
    (data.root / "target.data-00000-of-00001").unlink()
    first, second = data.problems()
    assert f"{data.root}/work_dir/model.ckpt-0.data-00000-of-00001 is missing" in first
    assert f"{data.root}/target.data-00000-of-00001 is missing" in second


def test_bad_numbers_are_refused_all_at_once():
    with pytest.raises(ValueError, match="size must be 5 to 19, got 4") as caught:
        SelfPlayDataModule(size=4, slow_readouts=0, eval_games=3, max_plies=MAX_PLIES + 1)
    assert len(str(caught.value).splitlines()) == 4


def test_the_longest_game_has_room_in_every_boards_history():
    assert all(history_length(size) >= 2 * MAX_PLIES for size in (5, 7, 19))


def test_a_match_with_fewer_games_than_ranks_is_refused(monkeypatch):
    monkeypatch.setattr("datamodules.selfplay.datamodule.ranks", lambda trainer: (0, 3))
    with pytest.raises(ValueError, match="at least 1 per device, got 2 for 3"):
        small(eval_games=2).val_dataloader()
