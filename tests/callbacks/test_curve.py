"""The plot's heading says what ran and how it ended."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from callbacks.curve import run_title, save_curve
from callbacks.quality_target import Evaluation

RECORD: dict[str, Any] = {
    "benchmark": "toy",
    "demo": False,
    "division": "open",
    "net": "my_lab.nets.Net",
    "seed": 7,
    "stop_reason": "BUDGET_EXHAUSTED",
    "resumed": False,
    "seconds": {"total": 125.0},
}


def test_title_of_a_run_that_missed_its_target() -> None:
    assert run_title(RECORD) == "toy open division, Net, seed 7: budget exhausted after 2:05"


def test_title_of_a_resumed_demo_claims_no_time() -> None:
    record = {**RECORD, "demo": True, "resumed": True, "stop_reason": "TARGET_REACHED"}
    ended = "target reached after 2:05 (resumed, no timed result)"
    assert run_title(record) == f"toy demo, Net, seed 7: {ended}"


def test_curve_shows_each_metric_with_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(Axes, "plot", lambda self, x, y, **_: drawn.append((x, y)))
    monkeypatch.setattr(Axes, "axhline", lambda self, y, **_: drawn.append(y))
    quality = {"box": 0.3, "mask": 0.2}
    evaluation = Evaluation(seconds=90.0, epoch=1, step=10, samples=20, quality=quality)
    save_curve(tmp_path / "curve.png", [evaluation], {"box": 0.377, "mask": 0.339}, title="toy")
    assert drawn == [([1.5], [0.3]), 0.377, ([1.5], [0.2]), 0.339]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("value", [0.3, 0.9])
def test_curve_names_the_metric_in_words_and_prints_the_last_value_inside(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    evaluations = [
        Evaluation(seconds=60.0 * n, epoch=n, step=n, samples=n, quality={"box_ap": quality})
        for n, quality in ((1, 0.6), (2, value))
    ]
    words = {"box_ap": "average precision of boxes"}
    save_curve(tmp_path / "curve.png", evaluations, {"box_ap": 0.377}, words=words)
    save_curve(tmp_path / "curve.png", evaluations, {"box_ap": 0.377})
    named, plain = (figure.axes[0] for figure in figures)
    assert named.get_ylabel() == "average precision of boxes"
    assert plain.get_ylabel() == "box ap"
    (label,) = [text for text in named.texts if "after" in text.get_text()]
    assert label.get_text() == f"{value} after 2:00"
    figures[0].draw_without_rendering()
    inside, box = named.get_window_extent(), label.get_window_extent()
    assert inside.x0 <= box.x0 < box.x1 <= inside.x1
    assert inside.y0 <= box.y0 < box.y1 <= inside.y1


def test_title_of_a_resumed_run_stays_within_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    save = Figure.savefig

    def noted(self: Figure, *args: Any, **settings: Any) -> None:
        figures.append(self)
        save(self, *args, **settings)

    monkeypatch.setattr(Figure, "savefig", noted)
    title = run_title({**RECORD, "benchmark": "maskrcnn", "seed": 2**32 - 1, "resumed": True})
    save_curve(tmp_path / "curve.png", [], {"box": 0.377}, title=title)
    (axes,) = figures[0].axes
    figures[0].draw_without_rendering()
    box = axes._left_title.get_window_extent()
    assert box.x1 <= figures[0].bbox.x1
    assert axes.get_title("left").split() == title.split()
