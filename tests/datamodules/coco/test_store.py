"""A COCO directory: other layouts, what differs from COCO 2017, what changed since ``prepare``."""

import json
import os
import shutil

import pytest
from PIL import Image

from datamodules.coco import COCO300DataModule, COCOMaskDataModule, layout, published, store
from datamodules.coco.demo import write_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, image_size=64, num_train=6, num_val=3)
    return folder


@pytest.fixture
def root(scenes, tmp_path):
    return shutil.copytree(scenes, tmp_path / "coco")


def edit(root, change, split="train"):
    path = layout.annotation_file(root, split)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


LAYOUTS = {
    "trainers'": ("images/{}", "annotations/instances_{}.json", "val"),
    "plain": ("{}", "annotations/{}.json", "validation"),
    "next to the images": ("{}", "{}/_annotations.coco.json", "valid"),
    "COCO one level down": ("images/{}2017", "annotations/instances_{}2017.json", "val"),
}


@pytest.mark.parametrize(("images", "annotations", "val"), LAYOUTS.values(), ids=LAYOUTS)
def test_other_layouts_are_found(images, annotations, val, scenes, tmp_path):
    for split, name in (("train", "train"), ("val", val)):
        shutil.copytree(scenes / f"{split}2017", tmp_path / images.format(name))
        target = tmp_path / annotations.format(name)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(layout.annotation_file(scenes, split), target)
    data = COCO300DataModule(root=tmp_path, batch_size=2)
    data.prepare()
    assert len(next(iter(data.train_dataloader()))["labels"]) == 2
    assert data.problems() == []


def test_images_may_lie_in_folders_of_their_own(root):
    (root / "train2017" / "a" / "b").mkdir(parents=True)

    def change(content):
        for entry in content["images"][:3]:
            name = entry["file_name"]
            entry["file_name"] = f"a/b/{name}"
            (root / "train2017" / name).rename(root / "train2017" / "a" / "b" / name)

    edit(root, change)
    data = COCO300DataModule(root=root)
    data.prepare()
    assert data.problems() == []
    extra = root / "train2017" / "a" / "b" / "extra.jpg"
    Image.new("RGB", (9, 9)).save(extra)
    assert "1 images are not in instances_train2017.json, e.g. a/b/extra.jpg" in data.problems()[0]


@pytest.mark.parametrize("kind", [COCO300DataModule, COCOMaskDataModule])
def test_own_data_says_how_it_differs_before_and_after_it_is_prepared(kind, root):
    data = kind(root=root)
    assert [line.partition(" images in")[0] for line in data.differences()] == ["11", "5"]
    side = {"image_size": 300} if kind is COCO300DataModule else {}
    assert data.net_facts() == {"num_classes": 4, **side}
    data.prepare()
    lines = data.differences()
    assert lines == [
        "3 categories instead of 80",
        "11 training images instead of 118,287",
        "5 evaluation images instead of 5,000",
    ]
    assert data.net_facts() == {"num_classes": 4, **side}


def test_categories_are_the_data_s_own(root):
    for split in layout.SPLITS:
        edit(root, lambda c: c["categories"].append({"id": 200, "name": "star"}), split)
    data = COCO300DataModule(root=root)
    assert data.net_facts()["num_classes"] == 5
    data.prepare()
    assert data.net_facts()["num_classes"] == 5
    edit(root, lambda c: c["categories"][0].update(name="other"))
    with pytest.raises(ValueError, match="train and val annotations have different categories"):
        data.prepare()


def test_the_demo_and_coco_itself_do_not_differ(root, monkeypatch):
    assert COCO300DataModule().differences() == []
    assert COCOMaskDataModule().net_facts() == {"num_classes": 4}
    data = COCO300DataModule(root=root)
    data.prepare()
    counts = {split: data._manifest[split] for split in layout.SPLITS}
    monkeypatch.setattr(published, "CATEGORY_IDS", [1, 3, 90])
    for split, numbers in published.COUNTS.items():
        own = {name: counts[split][name] for name in numbers}
        monkeypatch.setitem(published.COUNTS, split, own)
    assert data.differences() == []
    for name, words in (("annotations", "annotations"), ("objects", "objects that are no crowd")):
        published.COUNTS["val"][name] += 1
        (line,) = data.differences()
        assert line.partition(" instead")[0] == f"{counts['val'][name]} evaluation {words}"
        published.COUNTS["val"][name] -= 1
    monkeypatch.setattr(published, "CATEGORY_IDS", [1, 3, 91])
    assert data.differences() == ["categories with other ids"]


def test_published_categories_are_eighty():
    assert len(published.CATEGORY_IDS) == len(set(published.CATEGORY_IDS)) == 80


def test_net_facts_of_unreadable_annotations_are_a_value_error(tmp_path):
    with pytest.raises(ValueError, match="number of categories is not known yet"):
        COCO300DataModule(root=tmp_path).net_facts()


def test_a_changed_image_is_noticed_by_prepare_and_doctor_but_not_by_fit(root, capsys):
    data = COCO300DataModule(root=root)
    data.prepare()
    victim = next((root / "train2017").glob("*.jpg"))
    size, stamp = victim.stat().st_size, victim.stat().st_mtime_ns
    os.utime(victim, ns=(stamp + 10**9, stamp + 10**9))
    assert data.problems() == []  # touched only
    content = bytearray(victim.read_bytes())
    content[size // 2] ^= 1
    victim.write_bytes(content)
    os.utime(victim, ns=(stamp + 2 * 10**9,) * 2)
    (line,) = data.problems()
    assert line == f"{victim} changed since it was prepared; run the recipe's prepare command"
    data.prepare_data()
    assert capsys.readouterr().out.count("changed since") == 0
    data.prepare()
    assert f"{victim} changed since it was prepared; preparing it again" in capsys.readouterr().out
    assert data.problems() == []
    data.prepare()
    assert capsys.readouterr().out.count("changed since") == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_lost_image_is_noticed(split, root):
    data = COCO300DataModule(root=root)
    data.prepare()
    victim = next((root / f"{split}2017").glob("*.jpg"))
    victim.unlink()
    assert f"1 annotated images are missing, e.g. {victim.name}" in data.problems()[0]
    with pytest.raises(ValueError, match=f"missing, e.g. {victim.name}"):
        data.prepare()


def test_a_changed_image_that_is_now_unusable_stops_prepare(root):
    data = COCO300DataModule(root=root)
    data.prepare()
    victim = next((root / "val2017").glob("*.jpg"))
    Image.new("RGB", (9, 9)).save(victim)
    with pytest.raises(ValueError, match=f"{victim.name} has 9 x 9 pixels"):
        data.prepare()


def test_changed_annotations_are_told(root):
    data = COCO300DataModule(root=root)
    data.prepare()
    edit(root, lambda c: c["annotations"].pop(0))
    path = layout.annotation_file(root, "train")
    assert data.problems() == [
        f"{path} changed since it was prepared; run the recipe's prepare command"
    ]


def test_a_folder_that_0_2_prepared_is_read_and_its_images_checked_by_the_next_prepare(root):
    data = COCO300DataModule(root=root)
    data.prepare()
    records = root / store.PREPARED / "records.jsonl"
    kept = [line for line in records.read_text().splitlines() if '2017/"' not in line]
    records.write_text("\n".join(kept) + "\n")
    assert len(kept) == 3
    data.prepare_data()
    victim = next((root / "val2017").glob("*.jpg"))
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match="cannot be decoded"):
        data.prepare()
    victim.write_bytes(whole)
    data.prepare()
    assert len(records.read_text().splitlines()) == 5


def test_flipped_bits_in_the_prepared_annotations_are_found(root, capsys):
    data = COCO300DataModule(root=root)
    data.prepare()
    path = root / store.PREPARED / "train.npz"
    whole = bytearray(path.read_bytes())
    box = whole.index(b"box.npy") + 200  # in the numbers
    path.write_bytes(whole[:box] + bytes([whole[box] ^ 1]) + whole[box + 1 :])
    with pytest.raises(ValueError, match=r"train\.npz is damaged .*; delete it and run"):
        store.load(root / store.PREPARED, "train")
    data.prepare()
    assert "train.npz changed since it was written; preparing it again" in capsys.readouterr().out
    assert path.read_bytes() == whole


def test_an_evaluation_image_inside_the_training_set_is_refused(root):
    val = json.loads(layout.annotation_file(root, "val").read_text())
    train = json.loads(layout.annotation_file(root, "train").read_text())
    source, target = (c["annotations"][0]["image_id"] for c in (val, train))
    names = [
        next(i["file_name"] for i in content["images"] if i["id"] == key)
        for content, key in ((val, source), (train, target))
    ]
    shutil.copy(root / "val2017" / names[0], root / "train2017" / names[1])
    with pytest.raises(ValueError, match="1 evaluation images are training images too") as error:
        COCO300DataModule(root=root).prepare()
    assert f"{root / 'val2017' / names[0]} is {root / 'train2017' / names[1]}" in str(error.value)


def test_a_folder_that_cannot_be_read_is_no_empty_one(root, monkeypatch):
    def stale(path):
        raise OSError(116, "Stale file handle", str(path))

    monkeypatch.setattr(layout.os, "listdir", stale)
    data = COCO300DataModule(root=root)
    (line, *_) = data.problems()
    assert line.startswith(f"{root / 'train2017'} cannot be read (Stale file handle)")
    with pytest.raises(ValueError, match="cannot be read"):
        data.prepare()


def test_a_root_that_cannot_be_read_is_told(root, monkeypatch):
    def stale(path):
        raise OSError(116, "Stale file handle", str(path))

    monkeypatch.setattr(layout.Path, "is_dir", stale)
    assert COCO300DataModule(root=root).problems() == [
        f"{root}: cannot be read (Stale file handle)"
    ]


def test_linked_folders_are_followed(root, tmp_path):
    (root / "train2017").rename(tmp_path / "elsewhere")
    (root / "train2017").symlink_to(tmp_path / "elsewhere")
    data = COCO300DataModule(root=root)
    data.prepare()
    assert data.problems() == []
