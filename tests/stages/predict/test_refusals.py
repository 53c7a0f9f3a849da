"""What ``sgcl predict`` refuses: other features, and models that are not what their card says."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from sgcl_cli.errors import ArtefactError, ConfigError, LabelError
from sgcl_cli.stages.predict import predict
from tests.stages.predict.made import DIM, applied, cohort, write_slide


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder_sha256": "other"}, "is from another encoder"),
        ({"encoder_feed": '{"layer": "layer3"}'}, "was embedded with other settings: "),
    ],
)
def test_features_of_another_encoder_are_refused(classes: Path, tmp_path: Path, changes: dict, said: str) -> None:
    new = cohort(tmp_path / "new", 1, start=40, **changes)
    with pytest.raises(ConfigError, match=said):
        predict(applied(classes, tmp_path / "out", new))
    assert not (tmp_path / "out").exists()


def test_another_width_resolution_and_model_are_refused(classes: Path, tmp_path: Path) -> None:
    write_slide(tmp_path / "wide", "s50", np.zeros((3, DIM + 1)))
    with pytest.raises(ConfigError, match=r"features of 7 dimensions, the models were fitted on 6"):
        predict(applied(classes, tmp_path / "out", tmp_path / "wide"))
    new = cohort(tmp_path / "new", 1, start=40)
    with h5py.File(new / "s40.h5", "r+") as file:
        file["coords"].attrs["mpp_actual"] = 0.25
    with pytest.raises(ConfigError, match=r"at 0\.25 µm/px, the models were fitted at 0\.5"):
        predict(applied(classes, tmp_path / "out", new))
    assert "0.25 µm/px" in " ".join(predict(applied(classes, tmp_path / "out", new, allow_mpp=True)).warnings)
    with pytest.raises(ConfigError, match="no model of the result: 'clam'"):
        predict(applied(classes, tmp_path / "out2", models="clam"))
    write_slide(tmp_path / "empty", "s51", np.zeros((0, DIM)))
    with pytest.raises(LabelError, match="no slide of .* has patches"):
        predict(applied(classes, tmp_path / "out2", tmp_path / "empty"))


def test_a_result_without_models_or_with_damaged_ones_says_so(classes: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="holds no finished evaluation"):
        predict(applied(tmp_path / "absent", tmp_path / "out", classes.parent / "features"))
    copy = tmp_path / "copy"
    (copy / "models").mkdir(parents=True)
    (copy / "run.json").write_text("{}")
    with pytest.raises(ArtefactError, match="has no fitted models"):
        predict(applied(copy, tmp_path / "out", classes.parent / "features"))
    (copy / "models" / "card.json").write_bytes((classes / "models" / "card.json").read_bytes())
    (copy / "models" / "knn.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ArtefactError, match=r"knn\.safetensors is damaged"):
        predict(applied(copy, tmp_path / "out", classes.parent / "features", models="knn"))
    (copy / "models" / "card.json").write_text("[1]")
    with pytest.raises(ArtefactError, match="card"):
        predict(applied(copy, tmp_path / "out", classes.parent / "features"))
