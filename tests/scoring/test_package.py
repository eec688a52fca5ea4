"""Package: the tree, the fields, and the official checkers' verdict on it."""

import json

import pytest

from scoring.system_description import FIELDS, unfilled

SHEET = {
    "accelerator_memory_configuration": "HBM2",
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
    for name in ("recipes/ssd.py", "recipes/bert.py", "recipes/_cli.py", "modules/ssd.py",
                 "recipes/presets/ssd/demo.yaml", "recipes/presets/bert/demo.yaml"):  # fmt: skip
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


def test_the_code_of_this_benchmark_goes_along_and_no_other(tmp_path, five, source, cli):
    package(cli, tmp_path, five, source)
    home = tmp_path / "out/org/benchmarks/ssd"
    code = home / "implementations/finishline"
    found = {str(p.relative_to(code)) for p in code.rglob("*") if p.is_file()}
    assert found == {
        "recipes/ssd.py", "recipes/_cli.py", "modules/ssd.py", "recipes/presets/ssd/demo.yaml",
    }  # fmt: skip
    names = {p.name for p in (home / "box").iterdir()}
    scripts = {"setup.sh", "init_datasets.sh", "run_and_time.sh"}
    assert names >= {"README.md", "box_finishline.json", *scripts}


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
    assert "ssd: 6 runs found, the first 5 by start are taken" in texts
    packed = (tmp_path / "out/org/results/box/ssd").iterdir()
    seeds = {s for p in packed for s in range(6) if f'"seed", "value": {s},' in p.read_text()}
    assert seeds == {0, 1, 2, 3, 4}


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
    description |= {"framework": "", "cooling": ""}
    assert unfilled(description) == ["framework"]
