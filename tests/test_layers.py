"""Imports go one way, and the shape of the code stays within its bands."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"recipes", "modules", "datamodules", "callbacks", "scoring"}
ALLOWED = {
    "recipes": {"recipes", "modules", "datamodules", "callbacks"},
    "modules": {"modules"},
    "datamodules": {"datamodules"},
    "callbacks": {"callbacks"},
    "scoring": {"scoring"},
}
FILES = [path for package in sorted(PACKAGES) for path in sorted((ROOT / package).rglob("*.py"))]
# The folders that benchmarks or data sets share; two of them meet nowhere else.
SHARED = {"modules.common", "modules.detection", "modules.recommendation", "datamodules.common"}
# SSD and Mask R-CNN are folders of the folder that they share.
BENCHMARKS_OF_DETECTION = {"modules.detection.ssd", "modules.detection.maskrcnn"}
# Puts torchvision's networks into the place of either detector, so it speaks with both.
OF_BOTH_DETECTORS = "modules.detection.torchvision_detectors"


def dotted(path):
    """Dotted name of a file's module; a package's is that of its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in FILES}


def read(path):
    return ast.parse(path.read_text())


def checks_types_only(node):
    """An ``if TYPE_CHECKING:``, whose imports never happen."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node):
    """All nodes, those inside functions too, but for what is imported for types only."""
    for child in ast.iter_child_nodes(node):
        if not checks_types_only(child):
            yield child
            yield from statements(child)


def imports(path):
    """Dotted names that a file imports anywhere: ``from a import b`` is ``a.b`` if b is a file."""
    for node in statements(read(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in full)


IMPORTS = {name: sorted(set(imports(path))) for name, path in MODULES.items()}


def room(name):
    """The benchmark's, data set's or shared folder that a module belongs to."""
    parts = name.split(".")
    inner = ".".join(parts[:3])
    return inner if inner in BENCHMARKS_OF_DETECTION else ".".join(parts[:2])


def inside(name, folder):
    return name == folder or name.startswith(f"{folder}.")


def of(*folders):
    """Modules of some folders; there must be some."""
    names = [name for name in MODULES if any(inside(name, folder) for folder in folders)]
    assert names, folders
    return names


def test_every_package_has_files():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == PACKAGES
    assert len(FILES) > 150
    assert {room(name) for name in MODULES} >= SHARED | BENCHMARKS_OF_DETECTION


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_one_way(name):
    for imported in IMPORTS[name]:
        package = imported.partition(".")[0]
        # Two exceptions: Mini Go's engine is the environment that the data comes out of, and the
        # check of a network restores its state with the warm-up's own lines of plain torch.
        go = inside(name, "modules.minigo") and inside(imported, "datamodules.selfplay.go")
        state = name == "modules.common.check_net" and inside(imported, "callbacks.preserve_state")
        permitted = package in ALLOWED[name.partition(".")[0]] or go or state
        assert package not in PACKAGES or permitted, f"{name} imports {imported}"


@pytest.mark.parametrize("package", ["modules", "datamodules"])
def test_two_rooms_meet_only_where_they_share(package):
    """Two benchmarks, two data sets; and what they share knows none of them."""
    for name in of(package):
        own = room(name)
        for imported in IMPORTS[name]:
            other = room(imported)
            if not inside(imported, package) or other in (own, package):
                continue
            front = name in ("modules.ssd", "modules.maskrcnn") and name[8:] == other[18:]
            below = own in SHARED and other != "modules.common"
            both = name == OF_BOTH_DETECTORS and other in BENCHMARKS_OF_DETECTION
            assert (other in SHARED and not below) or front or both, f"{name} imports {imported}"


@pytest.mark.parametrize("package", ["modules", "datamodules"])
def test_pieces_know_nothing_of_the_module_that_they_are_for(package):
    tops = {name for name in of(package) if name.endswith((".module", ".datamodule"))}
    assert len(tops) == {"modules": 10, "datamodules": 9}[package]
    for name in of(package):
        # COCO's two data modules have their base in common.
        if MODULES[name].name != "__init__.py" and not name.endswith("datamodule"):
            assert not tops & set(IMPORTS[name]), f"{name} imports {tops & set(IMPORTS[name])}"


def test_networks_and_pieces_are_plain_torch():
    nets = [name for name in of("modules") if name.endswith(".net")]
    assert len(nets) == 10
    for name in of("modules"):
        if MODULES[name].name not in ("module.py", "base.py"):
            heavy = [
                x for x in IMPORTS[name] if x.partition(".")[0] in ("lightning", "torchmetrics")
            ]
            assert not [x for x in heavy if inside(x, "lightning")], f"{name} imports {heavy}"


def test_inner_packages_of_scoring_are_empty():
    """Each reads the others: names in their ``__init__`` would close a circle."""
    inner = {path.parent.name: path for path in (ROOT / "scoring").glob("*/__init__.py")}
    assert len(inner) >= 5
    del inner["published"]  # a table and its reader, which imports nothing of ours
    for path in inner.values():
        body = read(path).body
        assert all(isinstance(node, ast.Expr) for node in body), f"{path} holds more than words"


def circle(names):
    """One circle of imports among modules, also of imports inside functions; None without."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        path.append(name)
        found = next((c for x in IMPORTS[name] if x in names and (c := visit(x))), None)
        path.pop()
        done.add(name)
        return found

    return next((c for name in sorted(names) if (c := visit(name))), None)


@pytest.mark.parametrize(
    "folder", ["recipes.cli", "modules", "datamodules", "callbacks", "scoring"]
)
def test_no_imports_in_a_circle(folder):
    assert circle(set(of(folder))) is None


def test_a_circle_is_found(monkeypatch):
    graph = {"a": ["b", "x"], "b": ["c"], "c": ["d", "b"], "d": []}
    monkeypatch.setitem(globals(), "IMPORTS", graph)
    assert circle(set(graph)) == ["b", "c", "b"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_500_lines(path):
    assert len(path.read_text().splitlines()) <= 500


def test_no_file_bears_the_name_of_a_package():
    """A script's directory is first on the path: random.py next to it would be imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    packages = {re.split(r"[^\w-]", name)[0].lower().replace("-", "_") for name in needed}
    assert {"torchvision", "webdataset", "rich"} < packages
    taken = packages | {"yaml", "pil", "sklearn"} | set(sys.stdlib_module_names)
    assert not [path for path in FILES if path.stem in taken and path.stem != "__main__"]


@pytest.mark.parametrize("folder", ["callbacks", "recipes/cli"])
def test_shared_code_names_no_benchmark(folder):
    recipes = {p.stem for p in (ROOT / "recipes").glob("[a-z]*.py")}
    shared = sorted((ROOT / folder).glob("*.py"))
    assert shared
    assert recipes
    for path in shared:
        for node in ast.walk(read(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in recipes, f"{path.name} names {node.value}"
