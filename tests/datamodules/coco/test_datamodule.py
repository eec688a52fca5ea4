"""COCO: reading, bad input, crops, sizes, the order of batches; what is opened when."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.coco import (
    COCO300DataModule,
    COCOMaskDataModule,
    image_check,
    layout,
    mask_images,
    ssd_images,
    store,
)
from datamodules.coco.annotations import load_annotations, parse
from datamodules.coco.demo import write_scenes
from datamodules.coco.json_file import read_json
from datamodules.common.sampling import SampleKey


@pytest.fixture
def root(tmp_path):
    write_scenes(tmp_path, image_size=64, num_train=12, num_val=4)
    return tmp_path


def edit(root, change, split="train"):
    path = layout.annotation_file(root, split)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_annotations_survive_the_round_trip(root, tmp_path):
    path = layout.annotation_file(root, "train")
    content = read_json(path)
    annotations = parse(content, path)
    annotations.save(tmp_path / "a.npz")
    again = load_annotations(tmp_path / "a.npz")
    assert again.file_name == annotations.file_name
    assert again.category_id.tolist() == [1, 3, 90]
    labels = {1: 1, 3: 2, 90: 3}
    for index, image_id in enumerate(again.image_id):
        own = [a for a in content["annotations"] if a["image_id"] == image_id]
        part = again.of_image(index)
        assert again.box[part].tolist() == [a["bbox"] for a in own]
        assert again.label[part].tolist() == [labels[a["category_id"]] for a in own]
        assert again.crowd[part].tolist() == [bool(a["iscrowd"]) for a in own]
        for rings, record in zip(again.polygons(index), own, strict=True):
            stored = [] if record["iscrowd"] else record["segmentation"]
            assert [len(r) * 2 for r in rings] == [len(s) for s in stored]
            for ring, flat in zip(rings, stored, strict=True):
                np.testing.assert_allclose(ring.reshape(-1), flat, rtol=1e-6)


def corners(box):
    x, y, width, height = box
    return [x, y, x + width, y + height]


BROKEN = {
    "unknown image": (
        lambda c: c["annotations"][0].update(image_id=10**9), "image_id 1000000000 is not in images"
    ),
    "unknown category": (
        lambda c: c["annotations"][0].update(category_id=2), "category_id 2 is not in categories"
    ),
    "short polygon": (
        lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4]]), "4 numbers but 3 corners"
    ),
    "odd polygon": (
        lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "not pairs"
    ),
    "NaN box": (
        lambda c: c["annotations"][0].update(bbox=[0, float("nan"), 2, 3]), "not four finite"
    ),
    "entry without image": (
        lambda c: c["images"].append({"id": 999, "file_name": "x.jpg", "width": 1, "height": 1}),
        "1 annotated images are missing, e.g. x.jpg",
    ),
    "no box": (lambda c: c["annotations"][0].pop("bbox"), "bbox is missing"),
    "text in box": (
        lambda c: c["annotations"][0].update(bbox=["1", 2, 3, 4]), "not four finite numbers"
    ),
    "polygon not in a list": (
        lambda c: c["annotations"][0].update(segmentation=[1, 2, 3, 4, 5, 6]),
        "a polygon is not a list of finite numbers",
    ),
    "no width": (lambda c: c["images"][0].pop("width"), "1 of the images lack width"),
    "no pixels": (lambda c: c["images"][0].update(height=0), "1 of the images have no pixels"),
    "category twice": (
        lambda c: c["categories"].append(c["categories"][0]), "1 ids of categories occur more than"
    ),
    "text as id": (
        lambda c: c["images"][0].update(id="a7"), "1 ids of images are not integers, e.g. 'a7'"
    ),
    "other size": (
        lambda c: c["images"][0].update(width=7, height=9), "its annotation says 7 x 9"
    ),
    "box of corners": (
        lambda c: c["annotations"][0].update(bbox=corners(c["annotations"][0]["bbox"])),
        "annotation 1: bbox",
    ),
    "run lengths of another size": (
        lambda c: c["annotations"][-2].update(segmentation={"size": [9, 9], "counts": [81]}),
        "its run lengths have size",
    ),
    "no record": (lambda c: c["annotations"].append(None), "without id: None is not a record"),
    "annotations are no list": (lambda c: c.update(annotations=None), "has no annotations"),
    "nothing to learn": (lambda c: c["annotations"].clear(), "contains no object to learn from"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_annotations_give_one_clear_line(root, fault):
    change, words = BROKEN[fault]
    edit(root, change)
    data = COCO300DataModule(root=root)
    with pytest.raises(ValueError, match=words.replace(".", r"\.")) as error:
        data.prepare_data()
    assert len(str(error.value).splitlines()) == 1
    assert str(root) in str(error.value)
    assert data.problems() == str(error.value).splitlines()


def test_polygon_without_extent_beside_a_whole_one_is_left_out(root):
    """Such rests occur; unlike an object that has nothing else they are no reason to refuse."""
    whole = {}

    def change(content):
        record = content["annotations"][0]
        whole[record["image_id"]] = record["segmentation"][0]
        record["segmentation"] = [[1, 2, 3, 4], *record["segmentation"], [5.0, 6.0]]

    edit(root, change)
    edit(root, change, "val")
    data = COCOMaskDataModule(root=root)
    data.prepare_data()
    train = store.load(data._prepared, "train")
    (found,) = train.polygons(0)[0]
    assert found.reshape(-1).tolist() == pytest.approx(whole[int(train.image_id[0])])
    first = data.evaluation_truth()["annotations"][0]
    assert first["segmentation"] == [whole[first["image_id"]]]


def test_many_problems_are_told_at_once_and_counted(root):
    def change(content):
        for record in content["annotations"]:
            record["category_id"] = 7

    edit(root, change)
    edit(root, lambda c: c["annotations"][0].update(image_id=10**9), "val")
    lines = COCO300DataModule(root=root).problems()
    assert any("more annotations with unknown categories" in line for line in lines)
    assert any("instances_val2017" in line for line in lines)


def test_boxes_without_masks_serve_ssd_only(root):
    for split in ("train", "val"):
        edit(root, lambda c: [a.pop("segmentation") for a in c["annotations"]], split)
    COCO300DataModule(root=root).prepare_data()
    data = COCOMaskDataModule(root=root)
    with pytest.raises(ValueError, match="objects have no polygons; Mask R-CNN needs") as error:
        data.prepare_data()
    assert data.problems() == str(error.value).splitlines()
    assert len(data.problems()) == 2


@pytest.mark.parametrize("kind", [COCO300DataModule, COCOMaskDataModule])
def test_batch_larger_than_the_data_set_is_refused(root, kind):
    data = kind(root=root, batch_size=13)
    data.prepare_data()
    data.setup("validate")
    with pytest.raises(ValueError, match="global batch of 13 images .* training set of 12"):
        data.setup("fit")


def test_other_image_formats_are_found_by_their_annotated_names(root):
    def change(content):
        entry = content["images"][0]
        old = root / "train2017" / entry["file_name"]
        Image.open(old).save(old.with_suffix(".png"))
        old.unlink()
        entry["file_name"] = old.with_suffix(".png").name

    edit(root, change)
    data = COCO300DataModule(root=root)
    data.prepare_data()
    assert data.problems() == []


def test_prepared_folder_keeps_what_else_lies_in_it(root, tmp_path):
    shared = tmp_path / "shared"
    (shared / "folder").mkdir(parents=True)
    (shared / "notes.txt").write_text("mine")
    for _ in range(2):
        COCO300DataModule(root=root, prepared_dir=shared).prepare_data()
        edit(root, lambda c: c["annotations"].pop())  # outdated: prepared anew
    assert sorted(path.name for path in shared.iterdir()) == [
        ".lock", "folder", "manifest.json", "notes.txt", "prepare.log", "records.jsonl",
        "train.npz", "val.npz",
    ]  # fmt: skip
    data = COCO300DataModule(root=root, prepared_dir=shared / "notes.txt")
    with pytest.raises(ValueError, match=r"cannot be written .* --data.prepared_dir"):
        data.prepare_data()


def test_image_without_entry_is_told(root):
    (root / "val2017" / "._stray.jpg").write_bytes(b"a Mac left this")
    Image.new("RGB", (8, 8)).save(root / "val2017" / "stray.jpg")
    assert (
        "1 images are not in instances_val2017.json, e.g. stray.jpg"
        in (COCO300DataModule(root=root).problems()[0])
    )


def test_json_cut_short_is_told(root):
    path = layout.annotation_file(root, "train")
    path.write_text(path.read_text()[:-200])
    with pytest.raises(ValueError, match="truncated or damaged"):
        COCOMaskDataModule(root=root).prepare_data()


def test_missing_parts_say_where_to_get_them(tmp_path):
    lines = COCO300DataModule(root=tmp_path).problems()
    assert len(lines) == 4
    assert all("images.cocodataset.org" in line for line in lines)
    with pytest.raises(FileNotFoundError):
        COCO300DataModule(root=tmp_path).prepare_data()


def test_damaged_images_are_all_told_before_the_clock(root):
    """Three kinds of damage in both splits; the repaired folder is ready."""
    victims = sorted((root / "train2017").glob("*.jpg"))[:2] + [next((root / "val2017").iterdir())]
    whole = [path.read_bytes() for path in victims]
    for path, content in zip(victims, (whole[0][:-40], b"", b"no picture"), strict=True):
        path.write_bytes(content)
    data = COCO300DataModule(root=root)
    with pytest.raises(ValueError, match="cannot be decoded") as error:
        data.prepare()
    lines = str(error.value).splitlines()
    assert [line.partition(" ")[0] for line in lines] == [str(path) for path in victims]
    assert data.problems() == lines
    assert not (root / store.PREPARED).exists()
    for path, content in zip(victims, whole, strict=True):
        path.write_bytes(content)
    data.prepare()
    assert data.problems() == []


def test_unusual_but_whole_images_pass(root):
    """Bytes behind a JPEG's end and a PNG of that name occur; both can be decoded."""
    first, second = sorted((root / "train2017").glob("*.jpg"))[:2]
    first.write_bytes(first.read_bytes() + bytes(7))
    Image.open(second).save(second, format="PNG")
    data = COCO300DataModule(root=root)
    data.prepare_data()
    assert data.problems() == []


@pytest.mark.slow
def test_images_are_checked_in_processes_and_a_flood_of_lines_is_counted(root, monkeypatch):
    names = sorted(path.name for path in (root / "train2017").iterdir())
    sizes = [Image.open(root / "train2017" / name).size[::-1] for name in names]
    for name in names[3:]:
        (root / "train2017" / name).write_bytes(b"")
    for name, value in {"SERIAL_FILES": 1, "CHUNK": 5, "SHOWN": 4}.items():
        monkeypatch.setattr(image_check, name, value)
    monkeypatch.setattr(image_check, "processes_for", lambda *_: 2)
    folder = root / "train2017"
    checked = image_check.check_images(folder, list(zip(names, sizes, strict=True)))
    lines = image_check.fault_lines(folder, checked)
    assert [Path(line.partition(" ")[0]).name for line in lines[:4]] == names[3:7]
    assert lines[4:] == [f"{root / 'train2017'}: {len(names) - 7} more unusable images"]


def test_damaged_image_is_named(root):
    data = COCO300DataModule(root=root)
    data.prepare_data()
    victim = next((root / "val2017").glob("*.jpg"))
    victim.write_bytes(victim.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{victim.name} cannot be decoded"):
        list(data.val_dataloader())


def test_ready_folder_opens_no_sample(root):
    COCO300DataModule(root=root).prepare_data()
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    data = COCO300DataModule(root=root)
    data.prepare_data()
    assert data.mllog_facts()["train_samples"] == 12
    facts = ("manifest.json", "records.jsonl")
    assert [p for p in opened if p.startswith(str(root)) and not p.endswith(facts)] == []


def test_changed_annotations_are_prepared_again(root):
    COCO300DataModule(root=root).prepare_data()
    edit(root, lambda c: c["annotations"].pop(0))
    data = COCO300DataModule(root=root)
    assert store.ready_manifest(root, root / store.PREPARED) is None
    data.prepare_data()
    assert data._manifest["train"]["annotations"] == len(store.load(data._prepared, "train").box)


def test_manifest_cut_short_is_made_again(root):
    COCO300DataModule(root=root).prepare_data()
    path = root / store.PREPARED / "manifest.json"
    path.write_text(path.read_text()[:40])
    COCO300DataModule(root=root).prepare_data()
    assert store.ready_manifest(root, path.parent)


def test_one_pixel_image_is_a_sample(root):
    def change(content):
        Image.new("RGB", (1, 1)).save(root / "train2017" / "dot.jpg")
        content["images"].append({"id": 0, "file_name": "dot.jpg", "width": 1, "height": 1})
        box = {"id": 999, "image_id": 0, "category_id": 1, "iscrowd": 0, "area": 1.0}
        ring = [[0.0, 0.0, 1.0, 0.0, 1.0, 1.0]]
        content["annotations"].append({**box, "bbox": [0.0, 0.0, 1.0, 1.0], "segmentation": ring})

    edit(root, change)
    data = COCO300DataModule(root=root, batch_size=4)
    data.prepare_data()
    assert data.num_train_samples == 13
    assert COCOMaskDataModule(root=root).num_train_samples == 12  # no side exceeds a pixel
    annotations = store.load(data._prepared, "train")
    images = ssd_images.TrainingImages(
        root / "train2017", annotations, np.arange(1), seed=0, crop_attempts=1
    )
    for epoch in range(20):
        assert images[SampleKey(0, epoch, 0)]["image"].shape == (3, 300, 300)
    assert mask_images.ImageSize(800, 1333).of(1, 1) == (800, 800)


def test_batches_have_the_promised_shapes_and_synthetic_ones_too(root):
    data = COCO300DataModule(root=root, batch_size=4)
    data.prepare_data()
    batch, fake = next(iter(data.train_dataloader())), data.synthetic_batch()
    for key in ("image", "boxes", "labels"):
        assert batch[key].shape[0] == fake[key].shape[0] == 4
        assert batch[key].shape[1:] == fake[key].shape[1:]
        assert batch[key].dtype == fake[key].dtype
    real = batch["labels"] > 0
    assert real.any()
    assert ((batch["boxes"][real] >= 0) & (batch["boxes"][real] <= 1)).all()
    masks = COCOMaskDataModule(root=root, batch_size=3, min_image_size=64, max_image_size=96)
    batch, fake = next(iter(masks.train_dataloader())), masks.synthetic_batch()
    assert batch.keys() == fake.keys()
    assert batch["image"].shape[2] % 32 == batch["image"].shape[3] % 32 == 0
    for box, label, polygons in zip(
        batch["boxes"], batch["labels"], batch["polygons"], strict=True
    ):
        assert len(box) == len(label) == len(polygons)


def test_masks_and_boxes_stay_together_when_flipped_and_scaled(root):
    data = COCOMaskDataModule(root=root)
    data.prepare_data()
    annotations = store.load(data._prepared, "train")
    samples = mask_images.usable(annotations)
    size = mask_images.ImageSize(100, 200)
    images = mask_images.TrainingImages(root / "train2017", annotations, samples, size=size, seed=0)
    seen = 0
    for number in range(len(samples)):
        sample = images[SampleKey(number, 0, 0)]
        for box, rings in zip(sample["boxes"].numpy(), sample["polygons"], strict=True):
            outline = np.concatenate(rings)
            np.testing.assert_allclose(outline.min(0), box[:2], atol=2.5)
            np.testing.assert_allclose(outline.max(0), box[2:], atol=2.5)
            seen += 1
    assert seen >= 10


@pytest.mark.parametrize(
    ("original", "resized"),
    [((480, 640), (800, 1066)), ((200, 640), (417, 1334)), ((640, 480), (1066, 800)),
     ((800, 900), (800, 900)), ((100, 100), (800, 800))],
)  # fmt: skip
def test_sizes_are_the_reference_ones(original, resized):
    assert mask_images.ImageSize(800, 1333).of(*original) == resized


def test_boxes_are_inclusive_and_crowds_left_out(root):
    data = COCOMaskDataModule(root=root)
    data.prepare_data()
    annotations = store.load(data._prepared, "train")
    images = mask_images.TrainingImages(
        root, annotations, np.arange(1), size=mask_images.ImageSize(64, 96), seed=0
    )
    box, label, polygons = images.targets(0)
    part = annotations.of_image(0)
    x, y, w, h = annotations.box[part][0]
    np.testing.assert_allclose(box[0], [x, y, x + w - 1, y + h - 1])
    assert annotations.crowd[part].sum() == 1
    assert len(label) == len(polygons) == int((~annotations.crowd[part]).sum())


def test_evaluation_batches_hold_images_of_one_shape_in_the_order_of_their_first(root):
    data = COCOMaskDataModule(
        root=root, evaluation_batch_size=3, min_image_size=64, max_image_size=96
    )
    write_image_sizes = {0: (40, 64), 1: (64, 40), 2: (41, 64), 3: (64, 64), 4: (42, 64)}
    edit(root, lambda c: [i.update(file_name=f"{n}.png") for n, i in enumerate(c["images"])], "val")
    for number in range(6):
        width, height = write_image_sizes.get(number, (64, 64))
        Image.new("RGB", (width, height)).save(root / "val2017" / f"{number}.png")
    for path in (root / "val2017").glob("*.jpg"):
        path.unlink()
    edit(root, lambda c: c.update(annotations=c["annotations"][:1], images=[
        i | dict(zip(("width", "height"), write_image_sizes.get(n, (64, 64)), strict=True))
        for n, i in enumerate(c["images"])
    ]), "val")  # fmt: skip
    edit(root, lambda c: c["annotations"][0].update(
        image_id=c["images"][5]["id"], bbox=[1.0, 1.0, 9.0, 9.0],
        segmentation=[[1.0, 1.0, 10.0, 1.0, 10.0, 10.0, 1.0, 10.0]],
    ), "val")  # fmt: skip
    data.prepare_data()
    batches = list(data.val_dataloader())
    assert [batch["index"].tolist() for batch in batches] == [[0, 2, 4], [1], [3, 5]]
    for batch in batches:
        for side in (0, 1):  # no more padding than an image of its own has
            need = -(-batch["size"][:, side] // 32) * 32
            assert set(need.tolist()) == {batch["image"].shape[2 + side]}


def test_epochs_have_the_reference_number_of_steps(monkeypatch):
    data = COCOMaskDataModule(batch_size=96)
    counts = {"train": {"images_with_usable_box": 117_266}, "val": {"images": 5000}}
    monkeypatch.setattr(data, "_facts", counts)
    assert data.steps_per_epoch == 1222
    light = COCO300DataModule(batch_size=1024)
    monkeypatch.setattr(light, "_facts", {"train": {"annotated_images": 117_266}})
    assert light.samples_per_epoch // light.global_batch_size == 115


def test_evaluation_batches_cover_all_images_also_the_empty_ones(root):
    data = COCOMaskDataModule(root=root, evaluation_batch_size=3)
    data.prepare_data()
    index = torch.cat([batch["index"] for batch in data.val_dataloader()])
    assert index.tolist() == list(range(6))
    assert len(data.evaluation_truth()["images"]) == 6


def as_version_3(root):
    """Turn a prepared folder into one of the version that kept no hashes; gives its bytes."""
    folder = root / store.PREPARED
    (folder / "records.jsonl").unlink()
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    stats = {split: layout.annotation_file(root, split).stat() for split in layout.SPLITS}
    sources = {split: [stat.st_size, stat.st_mtime_ns] for split, stat in stats.items()}
    kept = {name: manifest[name] for name in ("categories", *layout.SPLITS)}
    path.write_text(json.dumps({"format": 3, "sources": sources, **kept}))
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_folder_of_version_3_is_read_until_its_annotations_change(root):
    COCO300DataModule(root=root).prepare_data()
    stamps = as_version_3(root)
    data = COCO300DataModule(root=root)
    data.prepare_data()
    assert data.num_train_samples == 12
    folder = root / store.PREPARED
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps
    edit(root, lambda c: c["annotations"].pop())
    with pytest.raises(ValueError, match="another version .* run the recipe's prepare") as error:
        COCO300DataModule(root=root)._manifest  # noqa: B018
    assert "\n" not in str(error.value)
    COCO300DataModule(root=root).prepare_data()
    assert store.ready_manifest(root, folder)["format"] == store.VERSION


def test_annotations_with_another_time_alone_are_not_prepared_again(root):
    COCO300DataModule(root=root).prepare_data()
    for split in layout.SPLITS:
        layout.annotation_file(root, split).touch()
    assert store.ready_manifest(root, root / store.PREPARED)


def test_truncated_annotations_and_a_manifest_without_counts_are_made_again(root):
    COCO300DataModule(root=root).prepare_data()
    table, manifest = (root / store.PREPARED / name for name in ("train.npz", "manifest.json"))
    whole = table.read_bytes(), manifest.read_bytes()
    table.write_bytes(whole[0][:-8])
    manifest.write_text('{"dataset": "coco", "format": 4, "settings": {}}')
    COCO300DataModule(root=root).prepare_data()
    assert (table.read_bytes(), manifest.read_bytes()) == whole
