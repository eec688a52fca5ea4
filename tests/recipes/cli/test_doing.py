"""Every stage of every preparation is told: in the terminal's line, and in a log in ten seconds."""

from types import SimpleNamespace

import pytest

from callbacks.live_line import LogPace
from datamodules.coco import COCOMaskDataModule
from datamodules.coco.demo import write_scenes
from datamodules.common import progress
from datamodules.common.process_pool import outcomes
from datamodules.criteo import CriteoDataModule
from datamodules.criteo.demo import write_logs
from datamodules.imagenet import ImageNetDataModule
from datamodules.kits19 import KiTS19DataModule
from datamodules.librispeech import LibriSpeechDataModule
from datamodules.selfplay import SelfPlayDataModule
from datamodules.selfplay.demo import write_demo
from datamodules.wikipedia import WikipediaDataModule
from recipes.cli.doing import doing, text
from tests.datamodules.imagenet import tiny_imagenet
from tests.datamodules.kits19 import tiny_kits19
from tests.datamodules.librispeech import tiny_librispeech
from tests.datamodules.wikipedia.test_own_text import SETTINGS, articles


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@pytest.fixture
def log(monkeypatch, clock):
    """Let each stage last ten seconds; return its title and what a log file gets meanwhile."""
    pace, told = LogPace(0.0), []

    class Stages(list):
        def append(self, stage):
            pace.is_due(text("at work", 0.0), clock.seconds)
            super().append(stage)
            pace.is_due(text("at work", 0.0), clock.seconds)
            clock.seconds += 10
            line = text("at work", 0.0)
            told.append((stage.title, line if pace.is_due(line, clock.seconds) else None))

    monkeypatch.setattr(progress, "_STAGES", Stages())
    return told


def coco(root):
    write_scenes(root, image_size=64, num_train=4, num_val=2)
    return COCOMaskDataModule(root=root)


def criteo(root):
    write_logs(root, 2, 50)
    return CriteoDataModule(root=root, num_days=2, max_ind_range=100)


def kits19(root):
    tiny_kits19.write_raw(root)
    return KiTS19DataModule(root=root, crop_size=tiny_kits19.MINIMUM)


def wikipedia(root):
    from datamodules.wikipedia.demo import Language

    (root / "vocab.txt").write_text("\n".join(Language().vocabulary()) + "\n")
    for seed, name in enumerate(("b.txt", "eval.txt")):
        (root / name).write_text("\n\n".join(articles(seed)) + "\n")
    return WikipediaDataModule(root=root, **SETTINGS)


def librispeech(root):
    tiny_librispeech.write_tiny(root)
    return LibriSpeechDataModule(root=root, vocab_size=tiny_librispeech.VOCABULARY)


def minigo(root):
    data = SelfPlayDataModule(root=root, size=5, games_per_generation=2, batch_size=2)
    write_demo(root, data)
    return data


CASES = {
    lambda root: ImageNetDataModule(root=tiny_imagenet.write_tiny(root), prepare_processes=1): (
        "listing images", "planning train shards", "writing shards", "looking for changed files",
    ),
    librispeech: (
        "listing train-clean-100", "training the vocabulary", "encoding transcripts",
        "writing shards",
    ),
    coco: (
        "reading instances_train2017.json", "checking train2017",
        "comparing instances_train2017.json with the images", "writing annotations",
    ),
    criteo: (
        "parsing days", "numbering columns", "drawing buckets", "scattering days",
        "splitting the last day", "permuting buckets",
    ),
    kits19: ("preprocessing",),
    wikipedia: ("tokenising", "comparing articles"),
    minigo: ("compiling the Go engine", "reading networks", "reading games"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "stages"), CASES.items())
def test_each_stage_of_a_preparation_is_in_the_log_within_ten_seconds(
    make, stages, log, tmp_path, capsys
):
    datamodule = make(tmp_path)
    datamodule.prepare()
    assert {*stages} <= {title for title, _ in log}
    for title, line in log:
        assert line is not None, title
        assert line.startswith(title)
        assert line.endswith(" ... 10.0 s")


def test_a_second_look_is_told_too(log, tmp_path, capsys):
    datamodule = coco(tmp_path)
    datamodule.prepare()
    log.clear()
    datamodule.prepare()
    assert "looking for changed files" in dict(log)
    log.clear()
    datamodule.problems()
    assert dict(log)["looking for changed files"]


def test_mini_gos_games_are_told_at_the_start_of_a_run(log, tmp_path):
    datamodule = minigo(tmp_path)
    datamodule.prepare_data()
    datamodule.train_dataloader()
    assert [title for title, _ in log] == ["compiling the Go engine", "reading the given games"]
    assert all(line == f"{title} ... 10.0 s" for title, line in log)


def test_the_line_names_the_stage_its_items_and_the_time_left(clock):
    assert text("preparing the data", 3.21) == "preparing the data ... 3.2 s"
    with progress.stage("writing shards", 1290, workers=4) as stage:
        clock.seconds = 90
        stage.done = 3  # one worker has not finished its first yet: nothing is known
        assert text("x", 0) == "writing shards, 3 of 1,290 ... 1:30"
        stage.done = 129
        assert text("x", 0) == "writing shards, 129 of 1,290 ... 1:30, about 13:30 left"
        with progress.stage("reading a list"):
            assert text("x", 0) == "reading a list ... 0.0 s"
    assert progress.current() is None


def test_an_estimate_of_weeks_is_none(clock):
    stage = progress.Stage("checking", 1_000_000)
    stage.done, clock.seconds = 1, 60.0
    assert stage.seconds_left() is None  # 694 days
    stage.done, clock.seconds = 999_999, 1.9
    assert stage.seconds_left() is None  # too early
    clock.seconds = 1000.0
    assert stage.seconds_left() == pytest.approx(0.001, rel=1e-3)


def test_a_stage_ends_with_its_error(clock):
    with pytest.raises(ValueError, match="bad"), progress.stage("reading"):
        raise ValueError("bad")
    assert progress.current() is None
    jobs = outcomes(str, [1, 2], 1, "counting", show_progress=False)
    assert next(jobs) == "1"
    assert progress.current().text() == "counting, 1 of 2"
    jobs.close()
    assert progress.current() is None


def test_no_bar_is_drawn_where_a_command_shows_the_stage(capsys):
    list(outcomes(str, [1, 2], 1, "counting", show_progress=True))
    assert "counting (2)" in capsys.readouterr().err
    with doing("at work"):
        list(outcomes(str, [1, 2], 1, "counting", show_progress=True))
    assert not capsys.readouterr().err
