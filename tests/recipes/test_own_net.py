"""A network of one's own: what is named is built, with the data's facts and nothing else."""

import importlib
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from modules.detection.ssd.net import SSD300
from recipes.cli.main import run
from recipes.cli.parser import RecipeCLI
from recipes.cli.presets import demo_preset
from tests.recipes import own_nets

ROOT = Path(__file__).parents[2]
STEMS = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))
HERE = "tests.recipes.own_nets"
# What the demo's data fix, under the names that the test's network has.
FACTS = {
    "bert": {"vocab_size": 112},
    "gpt_oss_20b": {"vocab_size": 900},
    "llama31_8b": {"vocab_size": 900},
    "maskrcnn": {"num_classes": 4},
    "minigo": {"size": 5},
    "resnet": {"num_classes": 10},
    "rnnt": {"num_labels": 17},
    "ssd": {"num_classes": 4},
    "unet3d": {"num_classes": 3},
}
WIDE = own_nets.Wide.__init__.__kwdefaults__ | {
    "width": 48,
    "filters": (4, 4, 4, 4, 4),
    "num_layers": 9,
    "hidden_size": 24,
    "encoder_size": 20,
    "embedding_width": 6,
    "blocks": 7,
}


def sheet(stem):
    return importlib.import_module(f"recipes.{stem}").BENCHMARK


def built(stem, *flags):
    """Build a recipe's demo with these flags; return the command line's view of the network."""
    cli = RecipeCLI(sheet(stem), "fit", ["--config", str(demo_preset(sheet(stem))), *flags])
    if stem.startswith("dlrm"):  # builds its network once the data are prepared
        cli.net.facts = lambda: {"table_sizes": [5, 6], "num_dense": 13}
        cli.net()
    elif hasattr(cli.model, "build"):  # later too, as it may be large
        cli.model.build()
    return cli


def error_of(capsys, stem, *flags):
    status = run(sheet(stem), ["fit", *flags])
    (line,) = capsys.readouterr().err.strip().splitlines()
    return status, line


@pytest.mark.parametrize("stem", STEMS)
def test_a_named_class_starts_from_its_own_defaults_and_the_datas_facts(stem):
    facts = FACTS.get(stem, {"table_sizes": [5, 6]})
    net = built(stem, "--model.net", f"{HERE}.Wide").net
    assert net.arguments == WIDE | facts
    assert net.record()["class"] == f"{HERE}.Wide"
    assert net.describe(1_234_567).startswith(f"{HERE}.Wide({next(iter(facts))}=")
    assert net.describe(1_234_567).endswith(", 1.23 M parameters")


@pytest.mark.parametrize("stem", STEMS)
def test_an_argument_that_the_user_gives_always_wins(stem):
    name = next(iter(FACTS.get(stem, {"table_sizes": 0})))
    value = "[7]" if name == "table_sizes" else "7"
    flags = [f"--model.net.{name}", value, "--model.net", f"{HERE}.Wide", "--model.net.width=3"]
    arguments = built(stem, *flags).net.arguments
    assert arguments == WIDE | {name: (7,) if name == "table_sizes" else 7, "width": 3}


@pytest.mark.parametrize("stem", ["maskrcnn", "resnet", "ssd", "unet3d"])
def test_the_recipes_own_network_with_fewer_classes_than_the_data_is_refused(stem):
    number = FACTS[stem]["num_classes"]
    with pytest.raises(ValueError, match=f"num_classes is 2, but the data has {number} classes"):
        built(stem, "--model.net.num_classes", "2")
    assert built(stem, "--model.net.num_classes", "20").net.arguments["num_classes"] == 20


@pytest.mark.parametrize("stem", STEMS)
def test_the_recipes_own_network_keeps_the_presets_arguments(stem):
    preset = yaml.safe_load(demo_preset(sheet(stem)).read_text())["model"]["net"]
    if stem.startswith("dlrm"):
        net = RecipeCLI(sheet(stem), "fit", ["--config", str(demo_preset(sheet(stem)))]).net
        assert net.setting()["init_args"].items() >= preset["init_args"].items()
        return
    net = built(stem).net
    assert net.is_reference
    assert net.record()["arguments"].items() >= preset["init_args"].items()
    first = next(iter(preset["init_args"]))
    assert f"{first}={preset['init_args'][first]}" in net.describe(7)


@pytest.mark.parametrize("stem", STEMS)
def test_help_shows_the_recipes_own_network(stem, capsys):
    with pytest.raises(SystemExit) as ended:
        run(sheet(stem), ["fit", "--model.net.help"])
    assert ended.value.code == 0
    reference = RecipeCLI(sheet(stem), "fit", [], build=False).net
    out = capsys.readouterr().out
    assert reference.name in out
    for name in reference.setting()["init_args"]:
        assert f"--model.net.{name}" in out


def test_help_of_a_named_class_shows_its_arguments_alone(capsys):
    with pytest.raises(SystemExit):
        run(sheet("resnet"), ["fit", "--model.net", f"{HERE}.Classifier", "--model.net.help"])
    out = capsys.readouterr().out
    assert out.startswith(f"{HERE}.Classifier\n")
    assert "--model.net.n_classes" in out
    assert "CONFIG" not in out
    assert "<class" not in out


NAMES = (
    (["Wide"], "Wide is not a dotted path such as my_lab.nets.Wide"),
    ([f"{HERE}.Wyde"], f"{HERE} has no Wyde; did you mean {HERE}.Wide?"),
    ([f"{HERE}.Wide", "--model.net.widht", "3"], "did you mean --model.net.width?"),
)
OBJECTS = (
    (["./mine.py:Wide"], "there is no file ./mine.py"),
    ([f"{HERE}.ready"], "ready is a network already built; name its class"),
    ([f"{HERE}.pretend"], "pretend returned a dict, not a torch.nn.Module"),
    ([f"{HERE}.NeedsPackage"], "NeedsPackage needs package_that_nobody_has: pip install"),
    ([f"{HERE}.Wide.layer"], "has no layer"),
    (["torch.optim.SGD"], "torch.optim.SGD is a class, but not a torch.nn.Module"),
    (["timm.create_model"], "timm.create_model needs --model.net.model_name"),
)


@pytest.mark.parametrize(
    ("stem", "flags", "words"),
    [(stem, *case) for stem in STEMS for case in NAMES] + [("unet3d", *case) for case in OBJECTS],
)
def test_a_wrong_name_gets_the_right_hint(stem, flags, words, capsys):
    status, line = error_of(capsys, stem, "--model.net", *flags)
    assert status == 2
    assert words in line
    assert line.startswith("error: --model.net")


def test_a_short_name_and_a_shadowed_module_are_explained(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("class Tiny:\n    pass\n")
    (tmp_path / "yaml.py").write_text("class Tiny:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    line = error_of(capsys, "resnet", "--model.net=./mine.py:Tiny")[1]
    assert "./mine.py:Tiny is a file; give the dotted path, mine.Tiny" in line
    assert (
        "did you mean mine.Tiny or yaml.Tiny?" in error_of(capsys, "resnet", "--model.net=Tiny")[1]
    )
    line = error_of(capsys, "resnet", "--model.net=yaml.Tiny")[1]
    assert "yaml/__init__.py comes before yaml.py; rename yours" in line
    line = error_of(capsys, "resnet", "--model.net=resnet.ResNet")[1]
    assert "did you mean modules.resnet.net.ResNet?" in line
    line = error_of(capsys, "resnet", "--model.net=recipes.resnet.Net")[1]
    assert "it is the recipe" in line


def test_a_long_list_leaves_room_for_the_other_arguments():
    net = built("dlrm", "--model.net", f"{HERE}.Wide").net
    net.facts = lambda: {"table_sizes": list(range(1000, 1026))}
    net()
    line = net.describe(7)
    assert "Wide(table_sizes=[1000, 1001, ..., 1025] (26 values), " in line
    assert "width=48" in line


def test_synonyms_and_forms_of_the_datas_facts():
    net = built("resnet", "--model.net", f"{HERE}.Classifier").net
    assert net.arguments == {"n_classes": 10, "img_size": (64, 64), "width": 8}


@pytest.mark.parametrize("name", ["build", "partial"])
def test_functions_without_annotations_and_partials_are_built(name):
    more = ["--model.net.name", "classifier", "--model.net.width", "4"] if name == "build" else []
    cli = built("resnet", "--model.net", f"{HERE}.{name}", *more)
    assert cli.model.net.fc.out_features == 10
    assert cli.model.net.img_size == (64 if name == "build" else (64, 64))
    assert cli.model.net.fc.in_features == (4 if name == "build" else 3)


def test_builders_of_libraries_are_built():
    timm = ["--model.net", "timm.create_model", "--model.net.model_name", "vit_tiny_patch16_224"]
    cli = built("resnet", *timm, "--model.net.drop_path_rate", "0.1")
    assert cli.net.arguments["num_classes"] == 10
    assert cli.model.net.patch_embed.img_size == (64, 64)
    assert "img_size=64" in cli.net.describe(None)
    torchvision = [
        "--model.net",
        "torchvision.models.resnet18",
        "--model.net.zero_init_residual=true",
    ]
    torchvision += ["--model.net.norm_layer", "torch.nn.InstanceNorm2d"]
    cli = built("resnet", *torchvision)
    assert cli.model.net.fc.out_features == 10
    assert isinstance(cli.model.net.bn1, nn.InstanceNorm2d)
    given = cli.net.record()["arguments"]["norm_layer"]
    assert given["class_path"] == "torch.nn.InstanceNorm2d"
    assert "norm_layer=torch.nn.InstanceNorm2d" in cli.net.describe(None)


def test_a_local_torch_hub_repository_is_built(tmp_path):
    (tmp_path / "hubconf.py").write_text(
        "from torch import nn\n\ndef tiny(num_classes=7):\n    return nn.Linear(3, num_classes)\n"
    )
    hub = ["--model.net", "torch.hub.load", "--model.net.repo_or_dir", str(tmp_path)]
    cli = built("resnet", *hub, "--model.net.model", "tiny", "--model.net.source", "local")
    assert cli.model.net.out_features == 10


def test_a_configuration_that_names_the_net_gives_its_arguments(tmp_path):
    """The one who names the net in a file says its arguments there; flags still win."""
    mine = tmp_path / "mine.yaml"
    net = {"class_path": f"{HERE}.Wide", "init_args": {"width": 5, "num_classes": 6}}
    mine.write_text(yaml.safe_dump({"model": {"net": net}}))
    arguments = built("resnet", "--config", str(mine), "--model.net.width", "9").net.arguments
    assert (arguments["width"], arguments["num_classes"], arguments["blocks"]) == (9, 6, 7)
    other = built("resnet", "--config", str(mine), "--model.net", f"{HERE}.Classifier").net
    assert other.arguments == {"n_classes": 10, "img_size": (64, 64), "width": 8}


def test_arguments_of_the_same_class_are_merged(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("model:\n  net:\n    init_args:\n      blocks: [1, 1, 1, 1]\n")
    arguments = built("resnet", "--config", str(mine)).net.arguments
    assert (arguments["width"], list(arguments["blocks"])) == (16, [1, 1, 1, 1])


def _auxiliary(reference):
    """The recipe's own network, but with a second output in training."""

    class Auxiliary(reference):
        def _twice(self, output):
            return [output, output] if self.training else output

        def forward(self, *inputs):
            return self._twice(super().forward(*inputs))

        if hasattr(reference, "encode"):

            def encode(self, *inputs):
                return self._twice(super().encode(*inputs))

    return Auxiliary


@pytest.mark.parametrize("stem", STEMS)
def test_the_check_tries_training_mode_and_the_datas_own_shape(stem):
    cli = RecipeCLI(sheet(stem), "fit", ["--config", str(demo_preset(sheet(stem)))])
    settings = cli.net.setting()["init_args"]
    own = {"validation_input_shape": (32, 32, 32)} if stem == "unet3d" else {}
    own |= {"size": 5} if stem == "minigo" else {}
    net = _auxiliary(cli.net.target)
    module = sheet(stem).module_class()(net=lambda: net(**settings), **own)
    facts = {"num_classes": 10, "image_size": 64} if stem == "resnet" else {}
    with pytest.raises(ValueError, match=r"training|scalar losses"):
        module.configure_model() if stem.startswith("dlrm") else module.check_net(**facts)


class Strict(nn.Module):
    """A transducer's encoder that refuses frames after the longest utterance."""

    def __init__(self) -> None:
        super().__init__()
        self.num_labels = 4
        self.layer = nn.Linear(240, 6)

    def encode(self, features, lengths):
        assert features.shape[1] == int(lengths.max()), "padded past the longest utterance"
        return self.layer(features), lengths

    def predict(self, labels, state=None, *, start=False):
        steps = labels.shape[1] + start
        zeros = torch.zeros(1, len(labels), 1)
        return torch.zeros(len(labels), steps, 6), (zeros, zeros)

    def join(self, encoded, predicted):
        return (encoded + predicted)[..., :5]


def test_an_encoder_that_cannot_take_padding_is_refused_before_training():
    module = sheet("rnnt").module_class()(net=Strict)
    with pytest.raises(ValueError, match="of which 4 and 3 are speech.*padded past the longest"):
        module.check_net()


def test_a_detector_without_the_datas_last_class_is_refused_before_training():
    module = sheet("ssd").module_class()(net=lambda: SSD300(num_classes=3, width=8))
    module.check_net(num_classes=3)
    with pytest.raises(ValueError, match="SSD300 failed on objects of class 3: "):
        module.check_net(num_classes=4)
