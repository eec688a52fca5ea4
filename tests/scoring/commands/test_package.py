"""Package: the tree, the fields, and the official checkers' verdict on it."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from scoring.commands.package_tree import _tracked
from scoring.commands.system_description import (
    FIELDS,
    FIXED,
    LONG_STATUS,
    REQUIRED,
    describe,
    status_words,
    unfilled,
)
from scoring.rules.rounds import load_round
from scoring.runs.result_sets import find_result_sets

ROOT = Path(__file__).parents[3]

SHEET = {
    "accelerator_memory_configuration": "HBM2",
    "host_processors_per_node": "2",
    "host_processor_core_count": "64",
    "host_storage_type": "NVMe SSD",
    "host_storage_capacity": "1 TB",
}


@pytest.fixture
def five(tmp_path, make):
    for number in range(1, 6):
        make.run(tmp_path / "runs", number=number, seconds=600 + number)
    return tmp_path / "runs"


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "code"
    for name in ("recipes/ssd.py", "recipes/bert.py", "recipes/cli/main.py",
                 "modules/detection/ssd/module.py", "recipes/presets/ssd/demo.yaml",
                 "recipes/presets/bert/demo.yaml"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1\n")
    return root


def package(cli, tmp_path, folder, source, *more):
    command = ["package", folder, "--out", tmp_path / "out", "--org", "org", "--system", "box"]
    status, out, err = cli(*command, "--source", source, "--json", *more)
    return status, json.loads(out) if out else None, err


def test_five_good_runs_make_a_package_that_passes(tmp_path, five, source, cli):
    sheet = tmp_path / "sheet.json"
    sheet.write_text(json.dumps(SHEET))
    status, told, _ = package(
        cli, tmp_path, five, source, "--system_json", sheet, "--availability", "onprem"
    )
    assert told["findings"] == []
    assert (status, told["passed"]) == (0, True)
    tree = tmp_path / "out" / "org"
    names = sorted(p.name for p in (tree / "results/box/ssd").iterdir())
    assert names == [f"result_{n}.txt" for n in range(5)]
    originals = sorted(p.read_text() for p in five.glob("ssd/*/result.txt"))
    assert sorted(p.read_text() for p in (tree / "results/box/ssd").iterdir()) == originals
    description = json.loads((tree / "systems/box.json").read_text())
    assert list(description) == [name.removesuffix("*") for name in FIELDS]
    assert description["host_processor_model_name"] == "Test CPU"
    assert (description["accelerators_per_node"], description["accelerator_model_name"]) == (
        "0", "N/A",
    )  # fmt: skip
    assert description["framework"] == "PyTorch 2.11.0"


def test_rejected_logs_make_no_package_and_say_why(tmp_path, make, source, cli):
    lines = [line for line in make.ssd() if '"opt_weight_decay"' not in line]
    for number in range(1, 6):
        make.run(tmp_path / "runs", number=number, lines=lines if number < 3 else None)
    status, told, _ = package(cli, tmp_path, tmp_path / "runs", source)
    texts = [finding["text"] for finding in told["findings"]]
    assert (status, told["package"], len(texts)) == (1, None, 3)
    assert texts[0] == (
        "ssd: runs that did not converge: 2 (2 of them rejected by the official checker); "
        "at most 1 may"
    )
    assert all("opt_weight_decay: found none" in text for text in texts[1:])


def test_the_code_of_this_benchmark_goes_along_and_no_other(tmp_path, five, source, cli):
    package(cli, tmp_path, five, source)
    home = tmp_path / "out/org/benchmarks/ssd"
    code = home / "implementations/finishline"
    found = {str(p.relative_to(code)) for p in code.rglob("*") if p.is_file()}
    assert found == {
        "recipes/ssd.py", "recipes/cli/main.py", "modules/detection/ssd/module.py",
        "recipes/presets/ssd/demo.yaml",
    }  # fmt: skip
    names = {p.name for p in (home / "box").iterdir()}
    scripts = {"setup.sh", "init_datasets.sh", "run_and_time.sh"}
    assert names >= {"README.md", "box_finishline.json", *scripts}


# Runs a recipe as a script would, with the packaged tree as the only place that has our packages.
ALONE = """
import runpy, sys
from pathlib import Path
tree = sys.argv[1]
own = ("recipes", "modules", "datamodules", "callbacks", "scoring")
sys.meta_path = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
inside = [p for p in sys.path if any(Path(p or ".", name).is_dir() for name in own)]
sys.path = [tree + "/recipes", tree, *(p for p in sys.path if p not in inside)]
sys.argv = [tree + "/recipes/ssd.py", *sys.argv[2:]]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
names = [name for name in sys.modules if name.partition(".")[0] in own]
strangers = [n for n in names if not str(sys.modules[n].__file__).startswith(tree + "/")]
assert "recipes" in names and not strangers, strangers
"""


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["--help"], "box AP >= 0.23"),
        pytest.param(["fit", "--print_config"], "trainer:", marks=pytest.mark.slow),
    ],
)
def test_a_packaged_recipe_runs_from_its_tree_alone(tmp_path, five, cli, arguments, printed):
    package(cli, tmp_path, five, ROOT)
    code = tmp_path / "out/org/benchmarks/ssd/implementations/finishline"
    empty = tmp_path / "empty"
    empty.mkdir()
    command = [sys.executable, "-c", ALONE, str(code.resolve()), *arguments]
    done = subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout


def test_the_official_checkers_text_decides(tmp_path, make, source, cli):
    """A shared seed passes every check of ours on the way in; the package checker must be heard."""
    for number in range(1, 6):
        make.run(tmp_path / "runs", number=number, lines=make.ssd(seed=7))
    status, told, _ = package(cli, tmp_path, tmp_path / "runs", source)
    assert status == 1
    assert "the official package checker found errors" in [f["text"] for f in told["findings"]]
    assert any("Seed checker failed" in line for line in told["official"])


def test_dlrm_does_not_kill_the_package_checker(tmp_path, published, source, cli):
    folder = published / "NVIDIA/results/dgxa100_ngc21.05_merlin_hugectr/dlrm"
    _, told, _ = package(cli, tmp_path, folder, source)
    assert not any("crashed" in f["text"] for f in told["findings"])
    assert any("logs no seed" in line for line in told["official"])


def test_missing_runs_write_nothing(tmp_path, make, source, cli):
    make.run(tmp_path / "runs", number=1)
    status, told, _ = package(cli, tmp_path, tmp_path / "runs", source)
    assert (status, told["package"]) == (1, None)
    assert told["findings"][0]["text"] == "ssd: 1 runs of the 5 needed"
    assert not (tmp_path / "out").exists()


def test_extra_runs_are_taken_by_start_not_by_time(tmp_path, make, source, cli):
    folder = tmp_path / "org0/results/box/ssd"
    for number in range(6):
        lines = make.ssd(seconds=900 - 100 * number, seed=number)
        lines = [line.replace("1620000", f"162{number}000") for line in lines]
        make.write(folder / f"result_{number}.txt", lines)
    _, told, _ = package(cli, tmp_path, folder, source)
    texts = [f["text"] for f in told["findings"]]
    assert "ssd: 6 runs found, the first 5 to start are used" in texts
    packed = (tmp_path / "out/org/results/box/ssd").iterdir()
    seeds = {s for p in packed for s in range(6) if f'"seed", "value": {s},' in p.read_text()}
    assert seeds == {0, 1, 2, 3, 4}


def test_where_more_runs_count_all_of_them_are_packed(tmp_path, make, source, cli):
    for number in range(7):
        lines = make.ssd(seconds=600 + number, seed=number)
        make.write(tmp_path / f"logs/result_{number}.txt", lines)
    _, told, _ = package(cli, tmp_path, tmp_path / "logs", source, "--round", "v1.1")
    assert not any("are used" in finding["text"] for finding in told["findings"])
    assert len(list(tmp_path.glob("out/org/results/box/ssd/result_*.txt"))) == 7


def test_demo_runs_are_a_rehearsal(tmp_path, make, source, cli):
    lines = make.ssd(submission_division="open")
    for number in range(1, 6):
        make.run(tmp_path / "runs", number=number, demo=True, division="open", lines=lines)
    status, told, _ = package(cli, tmp_path, tmp_path / "runs", source)
    assert status == 1
    assert told["package"]
    assert any("rehearsal" in f["text"] for f in told["findings"])


def test_unreleased_software_is_not_available(tmp_path, make, source, cli):
    for number in range(1, 6):
        make.run(tmp_path / "runs", number=number, versions={"torch": "2.12.0.dev20240101"})
    for availability, told_off in (("onprem", True), ("research", False)):
        _, told, _ = package(
            cli, tmp_path / availability, tmp_path / "runs", source, "--availability", availability
        )
        assert any("released software only" in f["text"] for f in told["findings"]) == told_off


def test_unfit_names_full_folders_and_unknown_fields_are_wrong_use(tmp_path, five, source, cli):
    assert cli("package", five, "--out", tmp_path / "o", "--org", "a b", "--system", "s")[0] == 2
    assert cli("package", five, "--out", five, "--org", "a", "--system", "s")[0] == 2
    sheet = tmp_path / "sheet.json"
    sheet.write_text('{"colour": "red"}')
    status, _, err = package(cli, tmp_path, five, source, "--system_json", sheet)
    assert status == 2
    assert "colour" in err


def test_required_fields_that_are_empty_are_listed():
    description = {name.removesuffix("*"): "x" for name in FIELDS}
    assert unfilled(description) == []
    description |= {"framework": "", "cooling": "", "host_processor_core_count": ""}
    assert unfilled(description) == ["framework"]


def described(folder):
    (found,) = find_result_sets([folder], load_round("v1.0").benchmarks)
    names = {"org": "org", "system": "box", "division": "closed", "status": "cloud"}
    return describe(found, **names, overrides={})


def test_another_machines_runs_are_not_described_by_this_one(tmp_path, make):
    system = {"cpu": "Another CPU", "cpu_cores": 96, "memory_gib": 2000.0, "os": "Linux",
              "accelerator": "NVIDIA A100", "accelerator_memory_gib": 80.0}  # fmt: skip
    for number in (1, 2):
        folder = make.run(tmp_path, number=number, devices=16, system=system)
        (folder / "config.yaml").write_text("trainer:\n  num_nodes: 2\n")
    sheet = described(tmp_path)
    assert (sheet["number_of_nodes"], sheet["accelerators_per_node"]) == ("2", "8")
    assert (sheet["host_processor_vcpu_count"], sheet["host_processor_core_count"]) == ("96", "")
    assert (sheet["host_storage_capacity"], sheet["accelerator_memory_configuration"]) == ("", "")
    missing = unfilled(sheet)
    assert "host_storage_capacity" in missing
    assert "host_processor_core_count" not in missing  # the rules want one of the two counts


def test_the_code_can_be_installed_and_holds_every_file_that_it_reads():
    """By what git tracks: pyproject's own files, and Mini Go's checkpoints, which have no suffix
    of a text."""
    names = {str(name) for name in _tracked(ROOT)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", project["readme"], *project["license-files"]} <= names
    assert "datamodules/selfplay/data/target.index" in names


def test_packed_settings_hold_no_path_and_no_seed(tmp_path, five, source, cli):
    logger = {"class_path": "WandbLogger", "init_args": {"entity": "me", "save_dir": "/home/me"}}
    config = {"seed_everything": 3, "output_root": "/a",
              "model": {"learning_rate": 0.5, "backbone_weights": "/home/me/weights.pth"},
              "data": {"root": "/b", "prepared_dir": "/c", "batch_size": 4},
              "trainer": {"logger": [logger], "devices": [0, 1]}}  # fmt: skip
    for folder in five.glob("ssd/*"):
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    log = next(five.glob("ssd/*/result.txt"))
    log.write_text(log.read_text() + "# started in /home/someone/work\n")
    _, told, _ = package(cli, tmp_path, five, source)
    assert any("names /home/someone: a pack" in x["text"] for x in told["findings"])
    (packed,) = (tmp_path / "out").glob("org/benchmarks/ssd/box/config.yaml")
    expected = {"model": {"learning_rate": 0.5}, "data": {"batch_size": 4},
                "trainer": {"devices": [0, 1]}}  # fmt: skip
    assert yaml.safe_load(packed.read_text()) == expected


def test_code_that_the_runs_did_not_run_is_told(tmp_path, make, cli):
    for number in range(1, 6):
        folder = make.run(tmp_path / "runs", number=number, net="lab.Net", division="open",
                          git_revision="0123456-dirty")  # fmt: skip
        rate = 0.1 if number < 3 else 0.4
        (folder / "config.yaml").write_text(f"seed_everything: 1\nmodel:\n  rate: {rate}\n")
    _, told, _ = package(cli, tmp_path, tmp_path / "runs", ROOT)
    texts = " ".join(finding["text"] for finding in told["findings"])
    if (ROOT / ".git").exists():
        assert "the runs are of revision 0123456-dirty, the code included of" in texts
    assert "uncommitted changes" in texts
    assert "the network lab.Net is not in the code included" in texts
    assert "the runs differ in model.rate: 0.1 in 2, 0.4 in 3" in texts


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("division", "Closed"),
        ("division", "open"),
        ("submitter", "NVIDIA"),
        ("status", "onprem"),
        ("system_name", "another"),
    ],
)
def test_a_sheet_cannot_say_who_submits_what_as_what(tmp_path, five, source, cli, field, value):
    sheet = tmp_path / "sheet.json"
    sheet.write_text(json.dumps({**SHEET, field: value}))
    status, told, err = package(cli, tmp_path, five, source, "--system_json", sheet)
    assert (status, told) == (2, None)
    assert f"--system_json: {field} is '{value}', but" in err
    assert not (tmp_path / "out").exists()


def test_a_sheet_may_repeat_what_holds_anyway(tmp_path, five, source, cli):
    sheet = tmp_path / "sheet.json"
    same = {"division": "closed", "submitter": "org", "status": "research", "system_name": "box"}
    sheet.write_text("\ufeff" + json.dumps({**SHEET, **same}))
    status, told, _ = package(cli, tmp_path, five, source, "--system_json", sheet)
    assert (status, told["passed"]) == (0, True)


@pytest.mark.parametrize("given", ["onprem", "Available on-premise", "available ON-premise "])
def test_a_sheet_may_give_its_status_in_short_or_in_full(tmp_path, make, given):
    """From v4.0 on the checker wants the long form."""
    make.run(tmp_path)
    (found,) = find_result_sets([tmp_path], load_round("v1.0").benchmarks)
    names = {"org": "org", "system": "box", "division": "closed"}
    full = status_words("onprem", "v5.1")
    sheet = describe(found, **names, status=full, overrides={"status": given})
    assert sheet["status"] == full
    for other in ("cloud", "Preview"):
        with pytest.raises(ValueError, match="status is"):
            describe(found, **names, status=full, overrides={"status": other})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is not JSON"),
        (b"[1]", "one JSON object"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"cooling": ["air"]}', "cooling is ['air']; give a text or a number"),
        (b'{"cooling": "air", "cooling": "water"}', "cooling is given more than once"),
    ],
)
def test_a_broken_sheet_is_one_line(tmp_path, five, source, cli, content, words):
    sheet = tmp_path / "sheet.json"
    sheet.write_bytes(content)
    status, told, err = package(cli, tmp_path, five, source, "--system_json", sheet)
    assert (status, told, len(err.splitlines())) == (2, None, 1)
    assert str(sheet) in err
    assert words in err


def test_our_code_is_never_packed_as_that_of_other_logs(tmp_path, published, cli):
    folder = published / "NVIDIA/results/dgxa100_ngc21.05_merlin_hugectr/dlrm"
    command = ["package", folder, "--out", tmp_path / "out", "--org", "org", "--system", "box"]
    for more in ([], ["--source", ROOT]):
        status, out, _ = cli(*command, *more)
        assert status == 1
        assert "problem: dlrm: not made by our recipes; pass the code that made the logs" in out
    assert not (tmp_path / "out").exists()


def test_other_logs_go_with_their_own_code(tmp_path, make, cli):
    code = tmp_path / "their_code"
    for name in ("train.py", "lib/net.cu", ".git_hidden/x"):
        make.write(code / name, ["x"])
    for number in range(5):
        lines = make.ssd(seed=number, seconds=600 + number)
        make.write(tmp_path / f"logs/result_{number}.txt", lines)
    _, told, _ = package(cli, tmp_path, tmp_path / "logs", code)
    texts = [finding["text"] for finding in told["findings"]]
    assert any("add setup.sh, init_datasets.sh, run_and_time.sh" in text for text in texts)
    home = tmp_path / "out/org/benchmarks/ssd"
    found = {str(p.relative_to(home)) for p in home.rglob("*") if p.is_file()}
    assert found == {
        "implementations/their_code/train.py", "implementations/their_code/lib/net.cu",
        "box/README.md", "box/box_their_code.json",
    }  # fmt: skip


def test_a_later_rounds_package_has_the_words_that_its_checker_wants(tmp_path, later, cli):
    (folder,) = later.glob("v5.1/*/results/*/llama2_70b_lora")
    code = tmp_path / "code/train.py"
    code.parent.mkdir()
    code.write_text("x")
    sheet = dict.fromkeys((name for name in REQUIRED if name not in FIXED), "8")
    (tmp_path / "sheet.json").write_text(json.dumps(sheet))
    flags = ("--availability", "onprem", "--system_json", tmp_path / "sheet.json")
    status, told, _ = package(cli, tmp_path, folder, code.parent, *flags)
    assert (status, told["passed"]) == (0, True), told
    (written,) = tmp_path.glob("out/org/systems/box.json")
    assert json.loads(written.read_text())["status"] == "Available on-premise"
    words = {status_words(name, "v3.1") for name in LONG_STATUS}
    assert words == set(LONG_STATUS)


def test_a_second_system_is_added_to_a_tree(tmp_path, five, source, cli):
    sheet = tmp_path / "sheet.json"
    sheet.write_text(json.dumps(SHEET))
    more = ["--source", source, "--json", "--system_json", sheet, "--out", tmp_path / "out"]
    command = ["package", five, "--org", "org", *more, "--system"]
    assert cli(*command, "box")[0] == 0
    first = (tmp_path / "out/org/results/box/ssd/result_0.txt").read_text()
    assert cli(*command, "crate")[0] == 0
    tree = tmp_path / "out" / "org"
    assert sorted(p.name for p in tree.parent.iterdir()) == ["org"]
    assert sorted(p.name for p in (tree / "systems").iterdir()) == ["box.json", "crate.json"]
    assert len(list(tree.glob("results/*/ssd/result_*.txt"))) == 10
    assert (tree / "results/box/ssd/result_0.txt").read_text() == first
    code = tree / "benchmarks/ssd/implementations"
    assert [p.name for p in code.iterdir()] == ["finishline"], "equal code is there once"
    (source / "recipes/ssd.py").write_text("x = 2\n")
    assert cli(*command, "tower")[0] == 0
    assert sorted(p.name for p in code.iterdir()) == ["finishline", "finishline_tower"]
    script = (tree / "benchmarks/ssd/tower/run_and_time.sh").read_text()
    assert "implementations/finishline_tower" in script
    status, _, err = cli(*command, "box")
    assert status == 2
    assert "has the system box already; pass another --system, or remove" in err
    (tmp_path / "out/notes.txt").write_text("x")
    status, _, err = cli(*command, "shelf")
    assert (status, "is not empty" in err) == (2, True)
