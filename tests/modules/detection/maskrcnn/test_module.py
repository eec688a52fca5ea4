"""Mask R-CNN's module: what it tells its network; scores of images that share a batch."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from modules.detection.maskrcnn import MaskRCNNModule
from modules.detection.maskrcnn.net import MaskRCNN

TINY = {
    "num_classes": 4, "width": 8, "pyramid_channels": 16, "box_features": 16, "mask_channels": 8,
    "anchor_sizes": (16, 32, 64, 128, 256), "proposals": 50, "evaluation_proposals": 20,
}  # fmt: skip


def test_the_net_knows_the_size_of_a_full_batch():
    module = MaskRCNNModule(net=lambda: MaskRCNN(**TINY))
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(batch_size=12))
    module.setup("fit")
    assert module.net.batch_size == 12


def test_weights_of_another_width_are_named_with_the_flags_that_give_others(tmp_path):
    (tmp_path / "R-50.pkl").write_bytes(
        pickle.dumps({"blobs": {"conv1_w": np.zeros((16, 3, 7, 7), np.float32)}})
    )
    module = MaskRCNNModule(net=lambda: MaskRCNN(**TINY))
    data = SimpleNamespace(batch_size=2, folder=tmp_path)
    module._trainer = SimpleNamespace(datamodule=data)
    with pytest.raises(ValueError, match=r"R-50\.pkl does not fit .*\(8, 3, 7, 7\)") as error:
        module.setup("fit")
    assert "--model.backbone_weights or --init_weights" in str(error.value)


def test_an_image_scores_the_same_alone_and_beside_another_of_its_padded_shape():
    torch.manual_seed(0)
    net = MaskRCNN(**TINY).eval()
    image = torch.randint(0, 256, (2, 3, 96, 128), dtype=torch.uint8)
    size = torch.tensor([[90, 128], [96, 100]])
    with torch.no_grad():
        together = net(image, size)
        alone = [net(image[[number]], size[[number]])[0] for number in (0, 1)]
    for one, other in zip(together, alone, strict=True):
        assert len(one["scores"]) > 0
        for key in ("boxes", "scores", "labels", "masks"):
            torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-4)
