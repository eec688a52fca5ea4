"""Own data in LibriSpeech's layout, what differs from LibriSpeech, and what would leak."""

import errno
import shutil

import numpy as np
import pytest
import soundfile

from datamodules.librispeech import LibriSpeechDataModule, manifest, subsets
from datamodules.librispeech.audio import Utterances
from tests.datamodules.librispeech.tiny_librispeech import SUBSETS, VOCABULARY, write_tiny

FOLDER = f"finishline-rnnt-{VOCABULARY}"
CYRILLIC = str.maketrans("ANOTES", "ЖНОТЕС")


@pytest.fixture
def root(tmp_path):
    return write_tiny(tmp_path / "LibriSpeech")


@pytest.fixture
def published(monkeypatch):
    """The counts and hours of the tiny corpus, as if they were LibriSpeech's."""
    counts = dict.fromkeys(SUBSETS, 12)
    monkeypatch.setattr(subsets, "UTTERANCES", counts)
    monkeypatch.setattr(manifest, "UTTERANCES", counts)
    hours = {"train-clean-100": 0.003, "train-clean-360": 0.0, "train-other-500": 0.0}
    monkeypatch.setattr(manifest, "HOURS", {**hours, "dev-clean": 0.001})
    monkeypatch.setattr(manifest, "HOURS_TOLERANCE", 0.3)


def data(root, **settings):
    return LibriSpeechDataModule(
        root=root, **{"batch_size": 4, "vocab_size": VOCABULARY, **settings}
    )


def rewrite_transcripts(root, change):
    for path in root.rglob("*.trans.txt"):
        lines = [line.partition(" ") for line in path.read_text().splitlines()]
        path.write_text("".join(f"{key} {change(text)}\n" for key, _, text in lines))


def first_flac(root, subset="train-clean-100"):
    return sorted((root / subset).rglob("*.flac"))[0]


def test_another_alphabet_and_other_splits_train(root, capsys):
    rewrite_transcripts(root, lambda text: text.translate(CYRILLIC))
    own = root.rename(root.with_name("speech"))
    for name, new in zip(SUBSETS, ("train", "train-more", "notes", "dev"), strict=True):
        (own / name).rename(own / new)
    module = data(own)
    text = (
        "24 training utterances (train, train-more) and 12 evaluation utterances (dev) instead of "
        "its 281,241 and 2,703"
    )
    assert module.problems() == []
    assert module.differences() == [text]
    module.prepare()
    assert f"Own data is ready in {own}/{FOLDER}: 24 training utt" in capsys.readouterr().out
    assert module.net_facts() == {"num_labels": VOCABULARY}
    [same, letters] = data(own).differences()
    assert same == text
    assert letters.startswith("letters other than a to z and ': е ж")
    utterances = Utterances(own / FOLDER, "dev", module._manifest, seed=0)
    said = module.decode(utterances[0].labels.tolist())
    assert set(said) <= set(module._manifest.letters)
    assert set(said) & set("жнотес")
    assert next(iter(module.val_dataloader()))["labels"].max() < VOCABULARY


def test_subsets_are_chosen_by_flags(root):
    own = root.rename(root.with_name("speech"))
    (own / "dev-clean").rename(own / "b")
    for name in SUBSETS[:3]:
        (own / name).rename(own / f"a-{name[-3:]}")
    assert "contains none of" in data(own).problems()[0]
    module = data(own, train_subsets=["a-100"], evaluation_subsets=["b"])
    module.prepare_data()
    assert module._manifest.subsets == {"train": {"a-100": 12}, "dev": {"b": 12}}
    other = data(own, train_subsets=["a-360"], evaluation_subsets=["b"])
    with pytest.raises(ValueError, match=r"with train_subsets \['a-100'\], this run needs \['a-"):
        other.prepare_data()
    both = data(own, train_subsets=["b"], evaluation_subsets=["b"], prepared_dir=own / "p")
    assert both.problems() == [f"{own}/b: is for training and for evaluation; choose one"]
    none = data(own, train_subsets=["c"], evaluation_subsets=["b"], prepared_dir=own / "p")
    assert none.problems() == [f"{own}/c: missing; correct the flag, or make the directory"]


def test_own_folder_without_a_subset_to_train_on_says_the_flag(root):
    own = root.rename(root.with_name("speech"))
    for name in SUBSETS[:3]:
        shutil.rmtree(own / name)
    (own / "dev-clean").rename(own / "dev")
    assert data(own).problems() == [
        f"{own}: no subset to use for train; name its directories with --data.train_subsets"
    ]


def test_librispeech_itself_does_not_differ(root, published):
    module = data(root)
    assert module.differences() == []
    module.prepare()
    assert module.differences() == []


def test_counts_and_hours_that_differ_are_told(root, published, monkeypatch):
    monkeypatch.setattr(manifest, "HOURS", {**manifest.HOURS, "dev-clean": 5.4})
    data(root).prepare_data()
    [line] = data(root).differences()
    assert line == "0.0 hours of audio in the dev split instead of its 5.4"
    flac = first_flac(root)
    transcript = next(flac.parent.glob("*.trans.txt"))
    transcript.write_text("\n".join(transcript.read_text().splitlines()[1:]) + "\n")
    flac.unlink()
    shutil.rmtree(root / "train-clean-360")
    shutil.rmtree(root / FOLDER)
    lines = data(root).differences()  # from the listing
    assert lines[0] == "11 utterances in train-clean-100 instead of its 12"
    assert lines[1].startswith("train-clean-360 is missing: extract www.openslr.org/resources/12/")
    module = data(root)
    module.prepare()
    assert module.differences() == lines  # from the manifest


def test_published_counts_are_those_of_the_rules():
    assert sum(subsets.UTTERANCES[name] for name in subsets.TRAIN_SUBSETS) == 281_241
    assert subsets.UTTERANCES["dev-clean"] == 2_703
    assert sum(subsets.HOURS[name] for name in subsets.TRAIN_SUBSETS) == pytest.approx(960.9)


def encoded_again(source, target):
    samples, rate = soundfile.read(source, dtype="int16")
    soundfile.write(target, samples, rate, subtype="PCM_24")


@pytest.mark.parametrize("copy", [shutil.copy, encoded_again])
def test_evaluation_audio_under_a_training_id_is_refused(root, copy):
    dev, train = first_flac(root, "dev-clean"), first_flac(root)
    copy(dev, train)
    with pytest.raises(ValueError, match="evaluation recordings must not be trained") as caught:
        data(root).prepare()
    assert str(caught.value).startswith(f"{dev}: the same audio as {train};")
    assert not (root / FOLDER / "manifest.json").exists()


def test_subset_that_is_linked_into_another_is_refused(root):
    (root / "train-clean-100" / "99").symlink_to(root / "dev-clean" / "13")
    [line] = data(root).problems()
    twin = root / "train-clean-100/99"
    assert line == f"{root}/dev-clean/13: is the same directory as {twin} by a link; remove one"


def test_linked_folder_that_holds_itself_ends(root):
    (root / "dev-clean" / "13" / "loop").symlink_to(root / "dev-clean")
    [line] = data(root).problems()
    assert line.startswith(f"{root}/dev-clean/13/loop: is the same directory as {root}/dev-clean")


def test_same_id_in_two_folders_is_named(root):
    flac = first_flac(root)
    copy = flac.parent.parent / "copy"
    copy.mkdir()
    shutil.copy(flac, copy)
    [line] = data(root).problems()
    assert f"/{flac.name} has the same id; rename it or remove the copy" in line


@pytest.mark.parametrize("letter", ["\x07", "\ufffd", "\x00"])
def test_character_that_is_no_text_is_named(root, letter):
    path = sorted(root.rglob("*.trans.txt"))[0]
    path.write_text(path.read_text().replace("A", letter, 1))
    [line] = data(root).problems()
    assert line.startswith(f"{path}: the transcript of 13-1-00")
    assert line.endswith(f"has {letter!r}; save the file as UTF-8 text")


def test_transcript_in_utf_16_is_one_line(root):
    path = sorted(root.rglob("*.trans.txt"))[0]
    path.write_text(path.read_text(), encoding="utf-16")
    [line] = data(root).problems()
    assert line == f"{path}: is not UTF-8 but perhaps UTF-16; save it as UTF-8 text"


def test_evaluation_letter_that_training_lacks_is_named(root):
    path = sorted((root / "dev-clean").rglob("*.trans.txt"))[0]
    path.write_text(path.read_text().replace("A", "Ж", 1))
    with pytest.raises(ValueError, match=r"characters outside of the vocabulary \(ж\)"):
        data(root).prepare_data()


def test_same_letters_in_another_unicode_form_are_the_same(root):
    rewrite_transcripts(root, lambda text: text.replace("A", "Ä"))
    path = sorted((root / "dev-clean").rglob("*.trans.txt"))[0]
    path.write_text(path.read_text().replace("Ä", "A\u0308"))
    module = data(root)
    module.prepare_data()
    assert "ä" in module._manifest.letters
    assert "\u0308" not in module._manifest.letters


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_S8"])
def test_other_sample_widths_are_read_rightly(root, subtype):
    path = first_flac(root)
    samples = np.arange(-2000, 2000, dtype=np.int16) * 8
    soundfile.write(path, samples, 16000, subtype=subtype)
    module = data(root)
    module.prepare_data()
    audio = Utterances(root / FOLDER, "train", module._manifest, seed=0)[0].audio.numpy()
    assert np.abs(audio.astype(int) - samples).max() <= (255 if subtype == "PCM_S8" else 0)


@pytest.mark.parametrize(
    "name", ["train-00000.tar", "dev-labels.npz", "tokenizer.model", "train.index.npy", "dev.json"]
)
def test_prepare_finds_a_flipped_byte(root, capsys, name):
    data(root).prepare()
    path = root / FOLDER / name
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    data(root).prepare()
    assert f"{path} changed since it was written; preparing it again" in capsys.readouterr().out
    assert path.read_bytes() == whole


def test_added_and_removed_recordings_are_noticed(root):
    data(root).prepare()
    flac = first_flac(root)
    transcript = next(flac.parent.glob("*.trans.txt"))
    new = flac.with_name("10-1-0099.flac")
    soundfile.write(new, np.arange(-3000, 3000, dtype=np.int16), 16000)
    with transcript.open("a") as file:
        file.write("10-1-0099 A NEW NOTE\n")
    lines = data(root).problems()
    assert lines == [
        f"{transcript} changed since it was prepared; run the recipe's prepare command"
    ]
    for path in (new, flac):
        path.unlink()
    transcript.unlink()
    for path in flac.parent.glob("*.flac"):
        path.unlink()
    [line] = data(root).problems()
    assert line.startswith(f"{root}: recordings or transcripts were added, removed or changed")
    module = data(root)
    module.prepare()
    assert len(module._manifest.num_samples["train"]) == 30
    assert data(root).problems() == []


def test_folder_that_cannot_be_read_is_named(root, monkeypatch):
    deep = root / "train-clean-360" / "11" / "1"
    scandir = subsets.os.scandir

    def stale(path):
        if str(path) == str(deep):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return scandir(path)

    monkeypatch.setattr(subsets.os, "scandir", stale)
    assert data(root).problems() == [f"{deep}: cannot be read (Stale file handle)"]
