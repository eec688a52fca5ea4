"""Old dotted paths: every one still leads to today's object and says so once, on stderr."""

import pytest

from modules.common.moved import MOVED, new_path

PATHS = sorted((old, new) for old, new in MOVED.items() if new)


@pytest.fixture
def run(run_python):
    def program(text):
        done = run_python(["-c", text])
        assert done.returncode == 0, done.stderr
        return done

    return program


def test_every_old_path_is_the_new_module_and_warns_once(run):
    checks = "".join(
        f"assert import_module({old!r}) is import_module({new!r}), {old!r}\n"
        f"assert import_module({old!r}) is import_module({new!r})\n"
        for old, new in PATHS
    )
    tops = "import modules, recipes\nfrom importlib import import_module\n"
    done = run(tops + checks)
    lines = [f"{old} is now {new}; the old name works until 0.4" for old, new in PATHS]
    assert sorted(done.stderr.splitlines()) == sorted(lines)
    assert done.stdout == ""


@pytest.mark.parametrize("stem", ["ssd", "maskrcnn", "unet3d"])
def test_names_that_users_write_stay_silently(stem, run):
    name = {"ssd": "SSDModule", "maskrcnn": "MaskRCNNModule", "unet3d": "UNet3DModule"}[stem]
    done = run(f"from modules.{stem} import {name}; print({name}.__name__)")
    assert (done.stdout, done.stderr) == (f"{name}\n", "")


def test_old_notebooks_find_their_runs(run):
    done = run("from scoring.result_sets import find_runs; print(find_runs.__module__)")
    assert done.stdout == "scoring.runs.run\n"
    assert "scoring.result_sets is now scoring.runs.run" in done.stderr


def test_a_class_path_is_translated_and_any_other_left_alone():
    assert new_path("modules.nets.unet3d.UNet3D") == "modules.unet3d.net.UNet3D"
    assert new_path("modules.unet3d.net.UNet3D") == "modules.unet3d.net.UNet3D"
    assert new_path("my_lab.nets.Net") == "my_lab.nets.Net"
