"""Decoding on a device, with torchvision's decoder in the place of the device's."""

import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from datamodules.coco import COCO300DataModule, COCOMaskDataModule, device_jitter
from datamodules.coco.image_check import decode_rgb
from datamodules.coco.ssd_images import JITTER, to_tensor
from datamodules.common import device_jpeg
from datamodules.common.device_jpeg import Encoded, decode_batch, nvimgcodec
from datamodules.common.jpeg_header import jpeg_header
from datamodules.imagenet import ImageNetDataModule
from datamodules.imagenet.images import Box, cropped, decode
from recipes.cli.main import run
from recipes.resnet import BENCHMARK


def jpeg(height=90, width=120, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 10, width // 10, 3)).repeat(10, 0).repeat(10, 1)
    file = io.BytesIO()
    Image.fromarray(coarse.astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def on_host(files):
    return [decode(data).permute(1, 2, 0) for data in files]


@pytest.mark.parametrize("flip", [False, True])
def test_pixels_are_those_of_the_loader_processes(flip):
    data, box = jpeg(), Box(7, 11, 111, 83)
    (found,) = decode_batch([Encoded("a", data, tuple(box), (64, 64), flip)], on_host, decode)
    expected = cropped(data, jpeg_header(data), box, 64)
    expected = expected.flip(2) if flip else expected
    assert found.dtype == torch.uint8
    assert (found.int() - expected.int()).abs().max() <= 2


def test_a_file_that_the_device_cannot_decode_is_decoded_by_the_host():
    images = [Encoded(name, jpeg(seed=n), (0, 0, 120, 90), (90, 120), False)
              for n, name in enumerate("ab")]  # fmt: skip
    first_only = decode_batch(images, lambda files: [on_host(files)[0], None], decode)
    for ours, whole in zip(first_only, decode_batch(images, on_host, decode), strict=True):
        assert torch.equal(ours, whole)


def test_a_damaged_file_is_named():
    image = Encoded("n01440764/a.JPEG", b"no image", (0, 0, 9, 9), (9, 9), False)
    with pytest.raises(ValueError, match="^n01440764/a.JPEG cannot be decoded"):
        decode_batch([image], lambda files: [None], decode)


def test_without_a_cuda_device_there_is_one_line(tmp_path, capsys):
    preset = Path(__file__).parents[3] / "recipes/presets/resnet/demo.yaml"
    args = ["--config", str(preset), "--trainer.accelerator", "cpu", "--output_root", str(tmp_path)]
    assert run(BENCHMARK, ["fit", *args, "--data.decoder", "nvimgcodec"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "error: --data.decoder nvimgcodec decodes on a CUDA device, and this run uses" in line


def test_without_the_package_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia", None)
    with pytest.raises(ValueError, match=r"run pip install 'finishline\[gpu\]'") as caught:
        nvimgcodec(torch.device("cuda", 0))
    assert "\n" not in str(caught.value)


def test_batches_hold_the_same_windows_in_the_same_order():
    both = {}
    for decoder in ("cpu", "nvimgcodec"):
        data = ImageNetDataModule(batch_size=4, image_size=64, decoder=decoder)
        data.prepare_data()
        data._decode = on_host
        loader = iter(data.train_dataloader())
        both[decoder] = data.transfer_batch_to_device(next(loader), torch.device("cpu"), 0)
    cpu, device = both["cpu"], both["nvimgcodec"]
    assert torch.equal(cpu["index"], device["index"])
    assert torch.equal(cpu["label"], device["label"])
    assert device["image"].shape == cpu["image"].shape
    assert device["image"].stride() == cpu["image"].stride(), "channels innermost"
    difference = (device["image"].int() - cpu["image"].int()).abs().float()
    # Small windows may have been decoded at a fraction of their size.
    assert difference.mean() < 3


@pytest.mark.parametrize("kind", [COCO300DataModule, COCOMaskDataModule])
def test_detectors_batches_hold_the_same_draws_in_the_same_order(kind):
    both = {}
    for decoder in ("cpu", "nvimgcodec"):
        data = kind(batch_size=6, decoder=decoder)
        data.prepare_data()
        data._decode = on_host
        loader = iter(data.train_dataloader())
        both[decoder] = data.transfer_batch_to_device(next(loader), torch.device("cpu"), 0)
    cpu, device = both["cpu"], both["nvimgcodec"]
    assert cpu.keys() == device.keys()
    for name in ("boxes", "labels"):
        torch.testing.assert_close(device[name], cpu[name], rtol=0, atol=0)
    assert device["image"].shape == cpu["image"].shape
    assert device["image"].stride() == cpu["image"].stride()
    if "size" in cpu:
        assert torch.equal(device["size"], cpu["size"])
        for ours, theirs in zip(device["polygons"], cpu["polygons"], strict=True):
            np.testing.assert_equal(ours, theirs)
    difference = (device["image"].int() - cpu["image"].int()).abs().float()
    assert difference.mean() < 2.5  # Pillow cuts fractions off after each of four changes
    assert (difference > 8).float().mean() < 0.01  # Pillow knows 256 hues


@pytest.mark.parametrize("kind", [COCO300DataModule, COCOMaskDataModule])
def test_a_damaged_image_of_a_detector_is_named(kind):
    data = kind(batch_size=6, decoder="nvimgcodec")
    data.prepare_data()
    batch = next(iter(data.train_dataloader()))
    data._decode = lambda files: [None] * len(files)
    path = batch["encoded"][1].name
    batch["encoded"][1] = batch["encoded"][1]._replace(data=b"\xff\xd8 no image")
    with pytest.raises(ValueError, match=rf"^{re.escape(path)} cannot be decoded .*archive again"):
        data.transfer_batch_to_device(batch, torch.device("cpu"), 0)


def test_other_kinds_of_files_never_reach_the_device():
    """Decoders see CMYK differently, and PNG may have 16 bits."""
    rows = np.zeros((8, 8, 4), np.uint8)
    given, kinds = [], [("JPEG", "CMYK"), ("PNG", "RGB"), ("JPEG", "L"), ("JPEG", "RGB")]
    for form, mode in kinds:
        file = io.BytesIO()
        Image.fromarray(rows, "RGBA").convert("RGB").convert(mode).save(file, form)
        given.append(Encoded(mode, file.getvalue(), (0, 0, 8, 8), (8, 8), False))
    reached = []

    def device(files):
        reached.extend(files)
        return on_host(files)

    assert len(decode_batch(given, device, lambda data: to_tensor(decode_rgb(data)))) == 4
    assert reached == [given[2].data, given[3].data]


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_changes_of_a_batch_are_torchvisions(name):
    images = torch.rand(5, 3, 16, 16)
    images[0] = 0.25  # grey
    spread = JITTER[name]
    amounts = (0.0 if name == "hue" else 1.0) + spread * torch.linspace(-1, 1, 5)
    found = device_jitter.CHANGES[name](images.clone(), amounts[:, None, None, None])
    adjust = getattr(functional, f"adjust_{name}")
    expected = torch.stack(
        [adjust(image, float(x)) for image, x in zip(images, amounts, strict=True)]
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)  # its weights of grey differ


def test_the_real_decoder_is_asked_for_rgb_on_the_current_stream(monkeypatch):
    """Its interface as of 0.9, without a GPU; ``tests.gpu_check`` runs it on one."""
    asked = {}

    class Library:
        class ColorSpec:
            SRGB = "srgb"

        @staticmethod
        def DecodeParams(**options):  # noqa: N802  (the library's name)
            return asked.setdefault("params", options)

        @staticmethod
        def CodeStream(data):  # noqa: N802
            if data == b"unknown":
                raise RuntimeError("unsupported codestream")
            return data

        class Decoder:
            def __init__(self, device_id):
                asked["device"] = device_id

            def decode(self, streams, params, cuda_stream):
                asked["stream"] = cuda_stream
                return [None if data == b"bad" else torch.zeros(2, 3, 3) for data in streams]

    monkeypatch.setattr(device_jpeg, "_library", lambda: Library)
    stream = type("Stream", (), {"cuda_stream": 7})
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    decode_files = nvimgcodec(torch.device("cuda", 1))
    unknown, good, bad = decode_files([b"unknown", b"good", b"bad"])
    assert good.shape == (2, 3, 3)
    assert unknown is bad is None
    assert decode_files([b"unknown"]) == [None]
    assert asked["device"] == 1
    assert asked["stream"] == 7
    assert asked["params"]["color_spec"] == "srgb"
    assert asked["params"]["apply_exif_orientation"] is False


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_decodes_what_the_host_decodes():
    pytest.importorskip("nvidia.nvimgcodec")
    images = [Encoded(str(n), jpeg(90 + 10 * n, 120, n), (3, 5, 100, 80), (48, 48), n % 2 == 1)
              for n in range(8)]  # fmt: skip
    there = decode_batch(images, nvimgcodec(torch.device("cuda", 0)), decode)
    here = decode_batch(images, on_host, decode)
    for device, host in zip(there, here, strict=True):
        assert device.is_cuda
        # Decoders round and enlarge the colour planes in their own ways.
        assert (device.cpu().float() - host.float()).abs().mean() < 3
