"""What ``sgcl predict`` refuses: other features, and models that are not what their card says."""

from __future__ import annotations

import shutil
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


def test_names_spelled_like_those_fitted_on_are_warned_of(classes: Path, tmp_path: Path) -> None:
    write_slide(tmp_path / "new", "S03", np.random.default_rng(5).normal(size=(4, DIM)))
    table = tmp_path / "patients.csv"
    for patient, shown in (("P7", ["'P7' and 'p7'"]), ("p7", []), ("another", [])):
        table.write_text(f"slide_id,patient_id\nS03,{patient}\n")
        outcome = predict(
            applied(classes, tmp_path / f"out {patient}", tmp_path / "new", labels=str(table), dry_run=True)
        )
        said = [text for text in outcome.warnings if "spelled like those that models were fitted on" in text]
        assert [text.partition("different: ")[2] for text in said] == ["'S03' and 's03'", *shown]


def test_scores_of_patches_can_be_left_out(classes: Path, tmp_path: Path) -> None:
    features = classes.parent / "features"
    files = predict(applied(classes, tmp_path / "out", features, models="abmil", scores=False)).data["files"]
    assert any(name.startswith("attention/") for name in files) and not (tmp_path / "out/scores").exists()
    assert not any(name.startswith("scores/") for name in files)


def test_a_missing_model_is_named_with_its_option(classes: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(classes, tmp_path / "copy")
    (copy / "models/knn.safetensors").unlink()
    with pytest.raises(ArtefactError, match=r"models/knn\.safetensors is missing") as caught:
        predict(applied(copy, tmp_path / "out", classes.parent / "features"))
    assert "leave knn out of --models" in (caught.value.hint or "")


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
