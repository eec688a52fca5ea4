"""Preparation of a data set: units of work, each with a record, then a manifest.

A prepared folder holds the data set's own files and

- ``manifest.json``: data set, format, settings and facts. A folder is readable once it exists; it
  is written last, and removed first when something has to be prepared again.
- ``records.jsonl``: one line per finished unit: its result, its files' sizes and hashes, and the
  raw files it was made from (size, modification time, hash). A killed run continues from it.
- ``prepare.log``: progress, one line per unit.

A data set declares its units and calls::

    with preparing(out, "kits19", settings, version=2, root=root) as preparation:
        if preparation.manifest is None:
            units = [Unit(case, item=raw, files=(...), num_bytes=...) for ...]
            results = preparation.run("preprocessing", prepare_case, units)
            preparation.finish({"cases": list(results.values())})

The job runs in a worker process (import no torch there), writes its files with ``atomic_file`` and
returns ``Done(result, raw files)``, or raises a ValueError of one line that names the bad file.
``records.read_manifest`` tells a reader whether a folder is ready. The ``prepare`` command passes
``units_to_redo(out, root)`` to ``preparing`` as ``redo``.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.common.atomic import locked
from datamodules.common.process_pool import outcomes, processes_for
from datamodules.common.records import (
    HASH_DIGITS,
    MANIFEST,
    RECORDS,
    Content,
    RawFile,
    Upgrade,
    changed_units,
    check_settings,
    damaged_units,
    file_hashes,
    file_size,
    plain,
    read_manifest,
    read_records,
    refresh_times,
    write_manifest,
    write_records,
)
from datamodules.common.verification import altered_units

LOG = "prepare.log"


class Done(NamedTuple):
    """A job's return value.

    Attributes:
        result: Anything that JSON can hold.
        raw: The raw files it was made from.
        sha256: Hashes of written files that the job knows, by name; the others are read again.
    """

    result: Any
    raw: Sequence[RawFile] = ()
    sha256: Mapping[str, str] = {}


@dataclass(frozen=True)
class Unit:
    """A piece of work that is done once.

    Attributes:
        name: Unique in the folder.
        item: The job's argument.
        files: Names of the files it writes; if one is missing or has another size, it is redone.
        fingerprint: What the output depends on besides the raw files' bytes; another one redoes it.
        num_bytes: Disk space of the output.
    """

    name: str
    item: Any = None
    files: tuple[str, ...] = ()
    fingerprint: str = ""
    num_bytes: int = 0


def space_problem(folder: Path, num_bytes: int) -> str | None:
    """Return one line if a folder, which may not exist yet, has less free space than needed."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if num_bytes < free:
        return None
    return (
        f"{folder}: preparing needs {num_bytes / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB "
        "free; free some space or give another directory with --data.prepared_dir"
    )


def missing_space(folder: Path, num_bytes: int) -> list[str]:
    """Return ``space_problem`` of what is still to write: a list of one line, or empty.

    Args:
        folder: The prepared folder; what it has already is no longer to be written.
        num_bytes: All that is in it in the end.
    """
    done = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
    line = space_problem(folder, max(0, num_bytes - done))
    return [line] if line else []


class Preparation:
    """A folder in preparation, locked by this process: what ``preparing`` yields."""

    manifest: Content | None
    """Its manifest if it is ready, else None."""
    is_new: bool
    """Whether it has no records yet; an earlier version may have prepared it."""

    def __init__(
        self,
        folder: Path,
        header: Content,
        manifest: Content | None,
        *,
        root: Path,
        redo: Collection[str],
        show_progress: bool,
    ) -> None:
        self.folder, self.manifest = folder, manifest
        self._root, self._show_progress = root, show_progress
        self._header, self._logging = header, False
        records = read_records(folder)
        earlier = records.pop("", None)
        if earlier is None or any(earlier[key] != header[key] for key in ("dataset", "format")):
            records = {}
            (folder / RECORDS).unlink(missing_ok=True)
        else:
            check_settings(folder, earlier["settings"], header["settings"])
        self.is_new = not (folder / RECORDS).is_file()
        self._used: dict[str, None] = {}
        self._records = {name: each for name, each in records.items() if name not in redo}
        if redo:  # on disk too: a run that is killed now must not leave them finished
            (folder / MANIFEST).unlink(missing_ok=True)
            self._write_records(self._records)

    def unfinished(self, units: Sequence[Unit]) -> list[Unit]:
        """Return the units that have no record, another fingerprint or a bad file."""
        return [unit for unit in units if not self._is_finished(unit)]

    def remember(self, unit: Unit, done: Done) -> None:
        """Record a unit as finished, such as one that an earlier version prepared."""
        files = {name: (self.folder / name).stat().st_size for name in unit.files}
        raw = [file._replace(path=self._relative(file.path)) for file in done.raw]
        record = {"unit": unit.name, "fingerprint": unit.fingerprint, "files": files}
        record["sha256"] = _hashes(self.folder, unit, done)
        self._records[unit.name] = plain({**record, "result": done.result, "raw": raw})
        lines = [self._records[unit.name]]
        if not (self.folder / RECORDS).is_file():
            lines.insert(0, self._header)
        with (self.folder / RECORDS).open("a") as file:
            # A line of its own, even behind half a line of a killed run.
            file.writelines(f"\n{json.dumps(line)}" for line in lines)

    def discard_records(self) -> None:
        """Start from the beginning, as files that the finished units left are of no use."""
        self._records = {}
        (self.folder / RECORDS).unlink(missing_ok=True)

    def run(
        self,
        title: str,
        job: Callable[[Any], Done],
        units: Sequence[Unit],
        *,
        processes: int = 0,
        worker_bytes: int = 10**9,
        serial_bytes: int = 0,
        after: Callable[[Unit], None] | None = None,
    ) -> dict[str, Any]:
        """Do the units that are not finished, in worker processes, the largest first.

        Args:
            title: The progress bar's text.
            job: Does one unit, given its ``item``; a module-level function or ``partial`` of one.
            units: All units of this stage.
            processes: Worker processes; 0 chooses by cores and memory.
            worker_bytes: Most memory that a worker needs.
            serial_bytes: Below this much output a process's start costs more than the work.
            after: Called with each unit once its record is written, to remove what it used up.

        Returns:
            Results of all units by name, in the order of ``units``.

        Raises:
            ValueError: One line per bad unit, or one if the disk is too small; finished units are
                kept.
        """
        self._used |= dict.fromkeys(unit.name for unit in units)
        # The largest first, so that the workers finish together.
        todo = sorted(self.unfinished(units), key=lambda unit: -unit.num_bytes)
        needed = sum(unit.num_bytes for unit in todo)
        if todo:
            self._begin(f"{title}: {len(todo)} of {len(units)} to do", needed)
        few = bool(needed) and needed < serial_bytes
        workers = processes or (1 if few else processes_for(len(todo), worker_bytes))
        work, workers = partial(_run_unit, job, self.folder), max(1, min(workers, len(todo)))
        problems, show, by_name = [], self._show_progress, {unit.name: unit for unit in todo}
        for count, outcome in enumerate(outcomes(work, todo, workers, title, show_progress=show)):
            if isinstance(outcome, str):
                problems.append(outcome)
                self.log(outcome)
                continue
            # This process writes the records, one by one: no two lines ever mix.
            unit = by_name[outcome[0]]
            self.remember(unit, outcome[1])
            self.log(f"{title}: {unit.name} done ({count + 1} of {len(todo)})")
            if after is not None:
                after(unit)
        if problems:
            raise ValueError("\n".join(sorted(problems)))
        return {unit.name: self._records[unit.name]["result"] for unit in units}

    def finish(self, facts: Mapping[str, Any]) -> Content:
        """Write the manifest, which makes the folder readable, and drop other units' records."""
        self._write_records(self._used)
        dataset, version, settings = (self._header[k] for k in ("dataset", "format", "settings"))
        self.manifest = write_manifest(self.folder, dataset, version, settings, facts)
        self.log("ready")
        return self.manifest

    def log(self, text: str) -> None:
        """Add lines to the log once work has begun; a full disk must not hide another error."""
        if self._logging:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            with suppress(OSError), (self.folder / LOG).open("a") as file:
                file.writelines(f"{stamp} {line}\n" for line in text.splitlines())

    def _write_records(self, names: Iterable[str]) -> None:
        write_records(self.folder, [self._header, *(self._records[name] for name in names)])

    def _begin(self, text: str, needed: int) -> None:
        """Check the space, then close the folder for readers."""
        if line := space_problem(self.folder, needed):
            raise ValueError(line)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        self.manifest, self._logging = None, True
        self.log(text)

    def _is_finished(self, unit: Unit) -> bool:
        record = self._records.get(unit.name)
        if record is None or record["fingerprint"] != unit.fingerprint:
            return False
        sizes = {name: file_size(self.folder / name) for name in unit.files}
        return record["files"] == sizes

    def _relative(self, path: str) -> str:
        """A path below the root is noted from there, as the root may move."""
        return str(Path(path).relative_to(self._root)) if self._root in Path(path).parents else path


@contextmanager
def preparing(
    folder: Path,
    dataset: str,
    settings: Mapping[str, Any],
    *,
    version: int,
    root: Path,
    redo: Collection[str] = (),
    upgrade: Upgrade | None = None,
    show_progress: bool = False,
) -> Iterator[Preparation]:
    """Lock a folder to prepare it; another process that prepares it waits, then finds it ready.

    Args:
        folder: The prepared folder; made if missing.
        dataset: Name of the data set.
        settings: What the prepared files depend on besides the raw files; values for JSON.
        version: Format of the prepared files; raise it when they change. A folder of another
            format is prepared again.
        root: Folder of the raw files.
        redo: Names of units to do again; those that another process has done meanwhile are left.
        upgrade: As in ``read_manifest``.
        show_progress: Draw a progress bar on standard error.

    Yields:
        The preparation.

    Raises:
        ValueError: If the folder has other settings or cannot be written.
    """
    header = {"unit": "", "dataset": dataset, "format": version, "settings": plain(settings)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):
            for stale in folder.glob("*.partial-*"):  # of a killed run, as we hold the lock
                if stale.is_file():
                    stale.unlink()
            manifest = read_manifest(
                folder, dataset, version=version, upgrade=upgrade, replace=True
            )
            if manifest is not None:
                check_settings(folder, manifest["settings"], settings)
            redo = _still_to_redo(folder, root, redo)
            preparation = Preparation(
                folder,
                header,
                None if redo else manifest,
                root=root,
                redo=redo,
                show_progress=show_progress,
            )
            try:
                yield preparation
            except BaseException as error:
                preparation.log(f"stopped: {type(error).__name__}: {error}")
                raise
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unwritable(folder, error) from error


def units_to_redo(
    folder: Path, root: Path, *, processes: int = 0, show_progress: bool = False
) -> set[str]:
    """Print which raw and prepared files have changed since; return their units, for ``redo``.

    Reads all prepared files. A raw file that was only touched is noted, not prepared again.
    """
    lines = altered_units(folder, processes=processes, show_progress=show_progress)
    lines |= changed_units(folder, root)
    for line in lines.values():
        print(f"{line}; preparing it again")
    if (folder / RECORDS).is_file() and os.access(folder, os.W_OK):
        with locked(folder / ".lock"):
            refresh_times(folder, root)
    return set(lines)


def damage_lines(folder: Path, root: Path | None = None) -> list[str]:
    """Return a line per prepared file of another size, and with ``root`` per changed raw file."""
    lines = damaged_units(folder)
    if root is not None:
        lines = changed_units(folder, root) | lines
    return [f"{line}; run the recipe's prepare command" for line in lines.values()]


def was_interrupted(folder: Path) -> bool:
    """Return whether a folder has records of units but no manifest."""
    return (folder / RECORDS).is_file() and not (folder / MANIFEST).is_file()


def unwritable(folder: Path, error: OSError) -> ValueError:
    """Return the error to raise when a prepared folder cannot be written: one line."""
    path = Path(str(error.filename or folder))
    if folder not in (path, *path.parents) and path not in folder.parents:  # a raw file
        return ValueError(f"{path}: cannot be read ({error.strerror}); finished work is kept")
    return ValueError(
        f"{folder}: cannot be written ({error.strerror or error}); finished work is kept; free "
        "some space or give another directory with --data.prepared_dir"
    )


def shorten(lines: Sequence[str], most_named: int | None) -> list[str]:
    """Return at most ``most_named`` lines, and how many more there are; None returns all."""
    if most_named is None or len(lines) <= most_named:
        return list(lines)
    more = len(lines) - most_named
    return [*lines[:most_named], f"... and {more} more like the last line"]


def _run_unit(job: Callable[[Any], Done], folder: Path, unit: Unit) -> tuple[str, Done]:
    try:
        done = job(unit.item)
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:  # a library's on odd input: the other units are done all the same
        reason = (str(error).splitlines() or ["no message"])[0]
        name = type(error).__name__
        raise ValueError(f"{unit.name}: cannot be prepared ({name}: {reason})") from error
    return unit.name, done._replace(sha256=_hashes(folder, unit, done))


def _hashes(folder: Path, unit: Unit, done: Done) -> dict[str, str]:
    """Return the hashes of a unit's files; those that the job did not give are read."""
    known = {name: digest[:HASH_DIGITS] for name, digest in done.sha256.items()}
    return known | file_hashes(folder, [name for name in unit.files if name not in known])


def _still_to_redo(folder: Path, root: Path, redo: Collection[str]) -> set[str]:
    """Look again, under the lock: another process may have done it while this one waited."""
    if not redo:
        return set()
    return {*altered_units(folder, redo), *changed_units(folder, root, redo)}
