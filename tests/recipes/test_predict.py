"""The command predict: every recipe's own kind of input, and what is wrong with one."""

import json
import os

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from modules.bert import BertModule
from modules.llm.generate import continuations
from recipes import load_run
from recipes.cli.arguments import Arguments
from recipes.cli.load import checkpoint_in, with_checkpoint_of_run
from recipes.cli.main import run
from recipes.cli.predict import output_names
from recipes.cli.usage import UsageError
from tests.recipes.untrained_run import benchmark_of, untrained_run

LANGUAGE = ("llama31_8b", "gpt_oss_20b")
STEMS = ("unet3d", "rnnt", "resnet", "ssd", "maskrcnn", "bert", "minigo", *LANGUAGE)
ENDINGS = {
    "unet3d": {".nii.gz", ".png"},
    "rnnt": {".txt"},
    "resnet": {".json"},
    "ssd": {".json", ".png"},
    "maskrcnn": {".json", ".png"},
    "bert": {".txt"},
    "minigo": {".json", ".sgf", ".png"},
    **dict.fromkeys(LANGUAGE, {".txt"}),
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Untrained runs by benchmark, made when asked for."""
    made = {}

    def of(stem):
        if stem not in made:
            made[stem] = untrained_run(tmp_path_factory.mktemp(stem) / "run", stem)
        return made[stem]

    return of


def predict(stem, folder, *words):
    cpu = ["--trainer.accelerator", "cpu"]
    return run(benchmark_of(stem), ["predict", "--ckpt_path", str(folder), *words, *cpu])


def endings(folder):
    return {path.name[path.name.index(".") :] for path in folder.iterdir()}


@pytest.mark.parametrize("stem", STEMS)
def test_a_demo_without_an_input_predicts_held_out_examples(stem, runs, tmp_path, capsys):
    assert predict(stem, runs(stem), "--out", str(tmp_path / "out")) == 0
    said = capsys.readouterr().out.splitlines()
    assert "No INPUT: predicting held-out examples of the demo." in said
    assert said[-1].endswith(f"inputs predicted; see {tmp_path / 'out'}")
    assert endings(tmp_path / "out") == ENDINGS[stem]
    for path in (tmp_path / "out").glob("*.png"):
        with Image.open(path) as picture:
            assert picture.width >= 700


def test_one_bad_input_loses_none_of_the_others(runs, tmp_path, capsys):
    images = [tmp_path / name for name in ("a.png", "damaged.png", "empty.png", "grey.png")]
    Image.new("RGB", (90, 70), (200, 30, 30)).save(images[0])
    images[1].write_bytes(images[0].read_bytes()[:60])
    images[2].touch()
    Image.new("L", (64, 64), 90).save(images[3])
    words = [*map(str, images), str(tmp_path / "lost.png"), str(tmp_path)]
    out = tmp_path / "out"
    assert predict("resnet", runs("resnet"), *words, "--out", str(out)) == 1
    said = capsys.readouterr()
    assert {path.name for path in out.iterdir()} == {"a.json", "grey.json"}
    assert said.out.splitlines()[-1].startswith("2 of 6 inputs predicted")
    errors = said.err.splitlines()
    assert len(errors) == 4
    for path, text in zip([*images[1:3], *words[4:]], errors, strict=True):
        assert text.startswith(f"error: {path}: ")
    top = json.loads((out / "a.json").read_text())["top"]
    shares = [row["probability"] for row in top]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1.001
    assert len({row["name"] for row in top}) == 5


def test_existing_predictions_are_replaced_only_when_asked(runs, tmp_path, capsys):
    Image.new("RGB", (90, 70)).save(tmp_path / "a.png")
    words = [str(tmp_path / "a.png"), "--out", str(tmp_path)]
    (tmp_path / "a.json").write_text("mine")
    assert predict("resnet", runs("resnet"), *words) == 1
    assert "a.json exists; pass another directory with --out DIR" in capsys.readouterr().err
    assert (tmp_path / "a.json").read_text() == "mine"
    assert predict("resnet", runs("resnet"), *words, "--overwrite", "true") == 0
    assert "top" in json.loads((tmp_path / "a.json").read_text())


@pytest.mark.parametrize(
    ("stem", "words", "line"),
    [
        ("unet3d", ["x.nii"], "error: predict needs --ckpt_path RUN"),
        ("unet3d", ["--ckpt_path", "nowhere"], "error: --ckpt_path: no file nowhere"),
        ("dlrm", ["--ckpt_path", "x", "y"], "error: dlrm has no predict"),
        ("unet3d", ["--ckpt_path", "{folder}"], "checkpoints/last.ckpt in this directory"),
        ("unet3d", ["--ckpt_path", "{run}", "--outt", "x"], "did you mean --out?"),
        ("ssd", ["--ckpt_path", "{run}"], "was written by unet3d, not by ssd"),
    ],
)
def test_a_wrong_command_gets_one_line_and_status_2(stem, words, line, runs, tmp_path, capsys):
    words = [word.format(folder=tmp_path, run=runs("unet3d")) for word in words]
    assert run(benchmark_of(stem), ["predict", *words]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert line in error


def test_the_overview_names_what_predict_takes(capsys):
    for stem in (*STEMS, "dlrm"):
        run(benchmark_of(stem), ["--help"])
        lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("  predict ")]
        assert bool(lines) == (stem != "dlrm")
        assert all(benchmark_of(stem).predicts in line for line in lines)


def test_names_of_predictions_are_distinct(tmp_path):
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "imaging.nii.gz")
        paths[-1].touch()
    words = [*map(str, paths), str(paths[0]), "no file [MASK]"]
    assert list(output_names(words)) == ["a-imaging", "b-imaging", "a-imaging-2", "input-4"]


def test_a_runs_directory_stands_for_its_last_checkpoint(runs, tmp_path):
    folder = runs("unet3d")
    last = folder / "checkpoints" / "last.ckpt"
    assert checkpoint_in(folder) == checkpoint_in(last) == last
    given = Arguments(["--ckpt_path", str(folder), "--data.batch_size", "1"])
    assert with_checkpoint_of_run(given).value("--ckpt_path") == str(last)
    assert with_checkpoint_of_run(given).value("--data.batch_size") == "1"
    with pytest.raises(UsageError, match=r"no checkpoints/last\.ckpt in this directory"):
        with_checkpoint_of_run(Arguments(["--ckpt_path", str(tmp_path)]))


# Volumes.


def test_a_mask_is_on_the_grid_of_its_volume_whatever_its_axes(runs, tmp_path):
    """The same volume with other axes gets the same mask, turned alike."""
    rng = np.random.default_rng(0)
    voxels = rng.normal(40, 90, (20, 34, 38)).astype(np.int16)
    affine = np.diag([3.2, 1.2, 1.2, 1.0])
    affine[:3, 3] = (-30, 5, 7)
    plain = nibabel.Nifti1Image(voxels, affine)
    turned = plain.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    assert turned.shape == (34, 38, 20)
    nibabel.save(plain, tmp_path / "plain.nii.gz")
    nibabel.save(turned, tmp_path / "turned.nii")
    words = [str(tmp_path / "plain.nii.gz"), str(tmp_path / "turned.nii")]
    assert predict("unet3d", runs("unet3d"), *words, "--out", str(tmp_path / "out")) == 0
    masks = [nibabel.load(tmp_path / "out" / f"{name}.nii.gz") for name in ("plain", "turned")]
    for mask, volume in zip(masks, (plain, turned), strict=True):
        assert mask.shape == volume.shape
        assert mask.get_data_dtype() == np.uint8
        np.testing.assert_allclose(mask.affine, volume.affine, atol=1e-4)
    again = nibabel.as_closest_canonical(masks[1])
    first = np.asarray(nibabel.as_closest_canonical(masks[0]).dataobj)
    np.testing.assert_array_equal(np.asarray(again.dataobj), first)
    assert len(np.unique(first)) > 1, "an untrained net finds something"


@pytest.mark.parametrize(
    ("shape", "first", "reason"),
    [
        ((9, 9, 9, 2), 0, "has shape (9, 9, 9, 2)"),
        ((9, 9), 0, "has shape (9, 9)"),
        ((9, 9, 9), np.nan, "not finite"),
    ],
)
def test_a_volume_of_another_kind_is_named(shape, first, reason, runs, tmp_path, capsys):
    voxels = np.zeros(shape, np.float32)
    voxels.flat[0] = first
    path = tmp_path / "x.nii"
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    assert predict("unet3d", runs("unet3d"), str(path), "--out", str(tmp_path / "out")) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {path}: ")
    assert reason in error
    assert not (tmp_path / "out").exists()


# Sound.


def test_a_recording_of_another_kind_is_named(runs, tmp_path, capsys):
    import soundfile

    sounds = {
        "stereo.wav": (np.zeros((16000, 2)), 16000),
        "fast.wav": (np.zeros(44100), 44100),
        "short.wav": (np.zeros(100), 16000),
        "good.wav": (np.zeros(16000), 16000),
    }
    for name, (samples, rate) in sounds.items():
        soundfile.write(tmp_path / name, samples, rate)
    (tmp_path / "text.flac").write_text("no sound")
    words = [str(tmp_path / name) for name in (*sounds, "text.flac")]
    assert predict("rnnt", runs("rnnt"), *words, "--out", str(tmp_path / "out")) == 1
    errors = capsys.readouterr().err.splitlines()
    for name, reason in (
        ("stereo.wav", "16000 Hz, 2 channels; needed: 16000 Hz, 1"),
        ("fast.wav", "44100 Hz, 1 channels"),
        ("short.wav", "100 samples"),
        ("text.flac", "cannot be decoded"),
    ):
        (line,) = [x for x in errors if name in x]
        assert reason in line
    assert len(errors) == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.txt"]


# Text.


def test_a_text_keeps_its_words_and_gets_those_of_the_masks(runs, tmp_path, monkeypatch, capsys):
    _, datamodule = load_run(runs("bert"))
    word, other = datamodule.vocabulary()[20:22]

    def second(self, batch, index):
        number = datamodule.vocabulary().index(other)
        return [[(number, 0.75)] for _ in batch["masked_index"].tolist()]

    monkeypatch.setattr(BertModule, "predict_step", second)
    text = f"{word.capitalize()} [MASK] {word}. {word} [MASK]."
    (tmp_path / "t.txt").write_text(text)
    words = [str(tmp_path / "t.txt"), text, f"{word} [MASK]" * 40, str(tmp_path / "none.txt")]
    (tmp_path / "none.txt").write_text(word)
    assert predict("bert", runs("bert"), *words, "--out", str(tmp_path / "out")) == 1
    expected = f"{word} <{other}> {word} . {word} <{other}> ."
    for name in ("t", "input-2"):
        lines = (tmp_path / "out" / f"{name}.txt").read_text().splitlines()
        assert lines == [expected, "", f"[MASK] 1: {other} 75.0%", f"[MASK] 2: {other} 75.0%"]
    too_long, without = capsys.readouterr().err.splitlines()
    assert "at most 64 fit" in too_long
    assert "has no [MASK]" in without


@pytest.mark.parametrize("stem", LANGUAGE)
def test_a_text_is_continued_by_the_networks_likeliest_tokens(stem, runs, tmp_path, capsys):
    module, data = load_run(runs(stem))
    text = data.example_inputs()[0]
    (tmp_path / "t.txt").write_text(text)
    (tmp_path / "long.txt").write_text(text * 20)
    words = [str(tmp_path / "t.txt"), text, str(tmp_path / "long.txt"), "nothing.txt"]
    assert predict(stem, runs(stem), *words, "--out", str(tmp_path / "out")) == 1
    ids = torch.tensor([data.encode(text)])
    for _ in range(48):
        ids = torch.cat((ids, module.net(ids)[:, -1:, : data.vocab_size].argmax(-1)), 1)
    likeliest = data.decode(ids[0, -48:].tolist()).strip()
    for name in ("t", "input-2"):
        written = (tmp_path / "out" / f"{name}.txt").read_text()
        assert written.startswith(f"{data.decode(data.encode(text))}\n\nlikeliest: {likeliest}\n")
    too_long, missing = capsys.readouterr().err.splitlines()
    assert f"tokens, allowed are 1 to {data.seq_length}" in too_long
    assert "nothing.txt: no such file; needed is a text file, or a text of" in missing


def test_a_text_at_the_longest_length_is_continued_with_its_end_in_view():
    seen = []

    class Counter(torch.nn.Module):
        def forward(self, ids):
            seen.append(ids[0].tolist())
            return torch.nn.functional.one_hot(ids + 1, 20).float()

    result = continuations(Counter(), torch.arange(4)[None], 3, longest=4)
    assert result[0, 0].tolist() == [4, 5, 6]
    assert seen == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]


# Images: what the network sees is what an evaluation shows it.


@pytest.mark.parametrize("stem", ["resnet", "ssd", "maskrcnn", "unet3d", "rnnt"])
def test_an_evaluation_sample_read_as_an_input_is_the_same(stem, runs):
    _, data = load_run(runs(stem))
    source = data.example_inputs()[0]
    batch = data.read_input(source)
    key = {"rnnt": "audio"}.get(stem, "image")
    if stem == "maskrcnn":
        data.evaluation_batch_size = 1
    for evaluated in data.val_dataloader():
        for row in range(len(evaluated[key])):
            other = evaluated[key][row]
            if stem == "rnnt":
                other = other[: int(evaluated["audio_lengths"][row])]
            if other.shape == batch[key][0].shape and torch.equal(other, batch[key][0]):
                return
    pytest.fail(f"no evaluation sample equals {os.path.basename(source)}")


def test_a_run_of_ones_own_network_predicts(tmp_path):
    """The network is rebuilt from the run's configuration, the data's figures included."""
    net = ["--model.net", "tests.recipes.own_nets.Classifier", "--model.net.width", "5"]
    folder = untrained_run(tmp_path / "run", "resnet", *net)
    assert predict("resnet", folder, "--out", str(tmp_path / "out")) == 0
    assert endings(tmp_path / "out") == {".json"}
    assert load_run(folder)[0].net.conv.out_channels == 5


@pytest.mark.parametrize("stem", STEMS)
def test_help_is_short_and_says_what_goes_in_and_comes_out(stem, capsys):
    with pytest.raises(SystemExit):
        run(benchmark_of(stem), ["predict", "--help"])
    page = capsys.readouterr().out
    usage = f"usage: python recipes/{stem}.py predict --ckpt_path RUN INPUT ... [--flag VALUE ...]"
    assert page.splitlines()[0] == usage
    assert benchmark_of(stem).predicts in " ".join(page.split())
    assert all(flag in page for flag in ("--out predictions", "--overwrite false", "RUN|FILE"))
    assert len(page.splitlines()) < 25
