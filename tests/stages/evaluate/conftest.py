"""A cohort of twelve slides and three folds of it; features of 40 slides of 20 patients, their labels, and a finished result."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sgcl_cli.artefacts.checkpoint import EncoderCard, save_encoder
from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.engine.views import MEAN, STD
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Fold, Plan
from sgcl_cli.report import evaluation
from sgcl_cli.stages.evaluate import report
from tests.stages.evaluate import tuned
from tests.stages.evaluate.made import DIM, bag, run, table_of, write_slide, write_table


@pytest.fixture
def small_cohort() -> Cohort:
    """Slide n has 2 + n % 3 patches of four features, the first of which is its class."""
    names = np.array([f"s{number:02d}" for number in range(12)])
    label = np.arange(12) % 2
    files = []
    for number, name in enumerate(names.tolist()):
        features = np.random.default_rng(number).normal(0, 0.1, (2 + number % 3, 4)).astype(np.float32)
        features[:, 0] += label[number]
        attributes = {"id": f"id {name}", "source_identity": f"identity {name}", "encoder": "tiny"}
        files.append(FeatureFile(Path(f"{name}.h5"), name, features, attributes=attributes))
    patients = np.array([f"p{number // 2}" for number in range(12)])
    return Cohort(
        "slide", ("normal", "tumour"), tuple(files), names, patients, label, None, None, "", True, "binary", ""
    )


@pytest.fixture
def small_plan() -> Plan:
    """Three folds of four slides; the next one validates."""
    parts = np.arange(12).reshape(3, 4)
    return Plan([Fold(str(n + 1), parts[(n + 2) % 3], parts[(n + 1) % 3], parts[n]) for n in range(3)])


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of 40 slides of 20 patients."""
    folder = tmp_path_factory.mktemp("slides")
    for row in table_of(40):
        write_slide(folder, row["slide_id"], bag(row["slide_id"], 2.0 * (row["label"] == "tumour")))
    return folder


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("tables") / "labels.csv", table_of(40))


@pytest.fixture(scope="module")
def finished(quick: None, slides: Path, labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of the plain command at slide level; not to be changed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    run(out, features=str(slides), labels=str(labels))
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return shutil.copytree(finished, tmp_path / "out")


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of 12 slides with labelled patches of three classes."""
    folder = tmp_path_factory.mktemp("patches")
    for number in range(12):
        rng = np.random.default_rng(number)
        label = np.arange(12) % 4 - 1
        features = rng.normal(size=(12, DIM))
        features[np.arange(12), label] += 2
        write_slide(folder, f"s{number:02d}", features, label=label, names=("fat", "gland", "tumour"))
    return folder


@pytest.fixture(scope="module")
def tiny() -> Iterator[None]:
    """The architecture ``tiny``; and no figures, which cost more than training here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "tiny", tuned.Tiny)
        patch.setattr(evaluation, "pictures", lambda drawn: {})
        patch.setattr(report, "_map", lambda finished: {})
        yield


@pytest.fixture(scope="module")
def data(tiny: None, tmp_path_factory: pytest.TempPathFactory, write_patches: Callable[..., Path]) -> Path:
    """tiles/, run/ and features/ that say nothing about the class, with labels.csv that divides 24 patients."""
    folder = tmp_path_factory.mktemp("finetune")
    write_patches(folder / "tiles", tuned.SLIDES, tuned.SIDE)
    torch.manual_seed(0)
    card = save_encoder(
        folder / "run", EncoderCard("tiny", 16, tuned.VIEW, MEAN, STD, 0.5, tuned.SIDE), tuned.Tiny().state_dict()
    )
    index = PatchIndex.open(folder / "tiles")
    (folder / "features").mkdir()
    for file in index.files:
        columns = {"coords": file.coords, "grid": file.grid, "label": file.label}
        from_ = {"patches_id": file.id, "patches_path": f"../tiles/patches/{file.path.name}"}
        tuned.write_features(folder / f"features/{file.path.name}", card, columns, file.label_names, **from_)
    tuned.write_table(
        folder / "labels.csv", {slide: "train" if number < 16 else "test" for number, slide in enumerate(tuned.SLIDES)}
    )
    return folder
