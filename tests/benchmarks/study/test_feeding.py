from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch

from benchmarks.study import feeding
from benchmarks.study.material import Set
from benchmarks.study.protocol import Row
from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.checkpoint import EncoderCard, load_encoder, save_encoder
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine.views import MEAN, STD, normalise
from sgcl_cli.errors import ArtefactError
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.stages.embed import embed


class TestFeeding:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        """A run that is finished: an encoder, and views of 8 from crops of a mean area of 0.25."""
        torch.manual_seed(0)
        card = EncoderCard("resnet18", 512, 28, MEAN, STD, 0.5, 32)
        save_encoder(tmp_path / "run", card, ENCODERS["resnet18"]().state_dict())
        config = {"view": 8, "crop_low": 0.1, "crop_high": 0.4}
        store.write_json(tmp_path / "run" / "run.json", {"config": config})
        return tmp_path / "run"

    def encoders(self, run: Path, patches: Path, **how: bool) -> tuple[EncoderCard, dict[str, torch.Tensor]]:
        sets = {"probed": Set(patches, 28, 32, "id")}
        row = Row("other", of="npid", **how)
        made = feeding.encoders(row, run, PatchIndex.open(patches), sets, run.parent / "encoders")
        embed(EmbedConfig(patches=str(patches), encoder=made["probed"], out=str(run.parent / "features")))
        return load_encoder(made["probed"])

    def test_images_are_shrunk_to_the_views_scale(self, run: Path, make_patches: Callable[..., Path]) -> None:
        card, state = self.encoders(run, make_patches(), shrunk=True)
        assert (card.resize, card.input_size, card.interpolation) == (16, 14, "bilinear")
        assert feeding.view_scale({"view": 16, "crop_low": 0.5, "crop_high": 0.5}, 32) == pytest.approx(0.5**0.5)
        own = load_encoder(run)[1]
        assert all(torch.equal(state[name], own[name]) for name in own)

    def test_statistics_are_those_of_the_corpus_as_probes_see_it(
        self, run: Path, make_patches: Callable[..., Path]
    ) -> None:
        patches = make_patches()
        _, state = self.encoders(run, patches, norms=True)
        own = load_encoder(run)[1]
        changed = {name for name in own if not torch.equal(state[name], own[name])}
        assert changed and all("running" in name or "tracked" in name for name in changed)
        index = PatchIndex.open(patches)
        images = np.stack([simplejpeg.decode_jpeg(index.read(i))[2:30, 2:30] for i in range(len(index))])
        planes = normalise(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
        first = torch.nn.functional.conv2d(planes, own["conv1.weight"], None, 2, 3)
        torch.testing.assert_close(state["bn1.running_mean"], first.mean((0, 2, 3)), rtol=0, atol=1e-5)

    def test_a_run_that_is_not_finished_is_said_to_be(self, tmp_path: Path, make_patches: Callable[..., Path]) -> None:
        with pytest.raises(ArtefactError, match="row 'npid' is not pretrained yet"):
            feeding.encoders(Row("other", of="npid"), tmp_path, PatchIndex.open(make_patches()), {}, tmp_path / "e")
