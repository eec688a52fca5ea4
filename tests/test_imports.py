"""What importing costs: no torch where none is needed; and whose module a name means."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(
    ".".join(path.parent.relative_to(ROOT).parts)
    for folder in ("recipes", "modules", "datamodules", "callbacks", "scoring")
    for path in (ROOT / folder).rglob("__init__.py")
)
HEAVY = ("torch", "lightning", "monai", "wandb")


def loaded_by(*names):
    """Heavy packages that a fresh process has loaded after importing these modules."""
    code = (
        "import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_the_go_engine_needs_no_torch():
    assert loaded_by("datamodules.selfplay.go.board") == []


def test_what_is_heavy_is_seen():
    assert "torch" in loaded_by("modules.common.lamb")


def test_no_package_imports_torch_by_itself():
    """A piece in a folder can be imported without torch: its ``__init__`` asks for none."""
    with_pieces = [p for p in PACKAGES if len(list((ROOT / p.replace(".", "/")).glob("*.py"))) > 1]
    assert {"modules.rnnt", "modules.common", "datamodules.imagenet"} < set(with_pieces)
    assert loaded_by(*with_pieces) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_gives_its_public_names_and_no_others(package):
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


@pytest.mark.parametrize("where", ["current directory", "PYTHONPATH"])
def test_a_recipe_shadows_no_module_of_the_users(where, tmp_path):
    """``python recipes/unet3d.py`` puts recipes/ first on the path, with its resnet.py and cli/."""
    own, watch = tmp_path / "own", tmp_path / "watch"
    for folder in (own, watch):
        folder.mkdir()
    for name in ("resnet", "cli"):
        (own / f"{name}.py").touch()
    # Looks the names up as --model.net does, when the recipe has ended.
    (watch / "sitecustomize.py").write_text(
        "import atexit, importlib\n"
        "def show():\n"
        "    for name in ('resnet', 'cli'):\n"
        "        print(importlib.import_module(name).__file__)\n"
        "atexit.register(show)\n"
    )
    paths = [watch, ROOT] if where == "current directory" else [watch, own, ROOT]
    done = subprocess.run(
        [sys.executable, ROOT / "recipes/unet3d.py", "--help"],
        cwd=own if where == "current directory" else tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-2:] == [str(own / "resnet.py"), str(own / "cli.py")]
