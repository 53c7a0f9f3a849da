"""A cohort of twelve slides, two classes in turn, and three folds of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Fold, Plan


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
