"""The layout of a data root: Mini Go's given checkpoints and games."""

from pathlib import Path
from typing import NamedTuple


class Files(NamedTuple):
    """Contents of a data root."""

    checkpoint: Path
    target: Path
    games: dict[int, list[Path]]
    """Model number -> its games."""

    def newest(self, window: int) -> dict[int, list[Path]]:
        """Return the games of the last models, by model in ascending order."""
        return {model: self.games[model] for model in sorted(self.games)[-window:]}


def find_files(root: Path) -> Files:
    """Find checkpoint, target and games in an unpacked ``checkpoint.tar.gz``.

    Args:
        root: Directory with ``mlperf07/`` (or its content) and ``target.index`` with its data.

    Returns:
        Prefixes of the two checkpoints, and the games of each model.

    Raises:
        FileNotFoundError: One line per missing part.
    """
    base = root / "mlperf07" if (root / "mlperf07").is_dir() else root
    lines = []
    source = "(public bucket minigo-pub, folder ml_perf/0.7)"
    steps = sorted((base / "work_dir").glob("*.index"), key=_step_of)
    if not steps:
        lines.append(f"{base / 'work_dir'}: no checkpoint; unpack checkpoint.tar.gz here {source}")
    targets = [f for f in (root / "target.index", base / "target.index") if f.is_file()]
    if not targets:
        lines.append(
            f"{root / 'target.index'} is missing; put the three target files here {source}"
        )
    for index in (*steps[-1:], *targets[:1]):
        if not any(index.parent.glob(f"{index.stem}.data-*")):
            lines.append(f"{index.with_suffix('')}.data-00000-of-00001 is missing {source}")
    folders = sorted(f for f in (base / "data" / "selfplay").glob("*") if f.name.isdigit())
    if not folders:
        lines.append(f"{base / 'data' / 'selfplay'}: no games; unpack checkpoint.tar.gz {source}")
    if lines:
        raise FileNotFoundError("\n".join(lines))
    games = {int(folder.name): sorted(folder.rglob("*.tfrecord.zz")) for folder in folders}
    return Files(steps[-1].with_suffix(""), targets[0].with_suffix(""), games)


def _step_of(index: Path) -> int:
    """Parse the global step in a checkpoint's name; -1 if there is none."""
    step = index.stem.rpartition("-")[2]
    return int(step) if step.isdigit() else -1
