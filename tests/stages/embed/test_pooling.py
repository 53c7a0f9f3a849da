from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.errors import ArtefactError
from sgcl_cli.stages.embed.pooling import PooledBlock, Pooling, mean_of_patches, resolution


def test_float16_rows_are_summed_in_float64() -> None:
    assert mean_of_patches(np.full((4096, 1), 60_000, np.float16)).tolist() == [60_000.0]


def test_blocks_stand_side_by_side_and_are_finite() -> None:
    file = FeatureFile(Path("a.h5"), "a", np.array([[1.0, 2.0], [3.0, 6.0]], np.float32))
    double = PooledBlock(lambda features: 2 * mean_of_patches(features), "1", 0)
    assert Pooling("p", (PooledBlock(mean_of_patches), double), {})(file).tolist() == [2.0, 4.0, 4.0, 8.0]
    endless = PooledBlock(lambda features: np.float32(3e38) * mean_of_patches(features))
    with pytest.raises(ArtefactError, match="the slide embedding of a is not finite"):
        Pooling("p", (endless,), {})(file)


@pytest.mark.parametrize(
    ("geometry", "mpp"), [({"mpp_actual": 0.49, "mpp_target": 0.5}, 0.49), ({"mpp_target": 0.5}, 0.5)]
)
def test_the_resolution_is_the_actual_one(geometry: dict[str, float], mpp: float) -> None:
    assert resolution(geometry) == mpp and np.isnan(resolution(None))
