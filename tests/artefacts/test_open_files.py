from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from sgcl_cli.artefacts import open_files

MANY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[2])))
from sgcl_cli.artefacts.features import open_features
from sgcl_cli.errors import ArtefactError
try:
    print(len(open_features(sys.argv[1], mapped=True).files))
except ArtefactError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of 100 slides."""
    made = tmp_path_factory.mktemp("many")
    for number in range(100):
        with h5py.File(made / f"s{number:03d}.h5", "w") as file:
            file["features"] = np.full((3, 4), number, np.float32)
    return made


@pytest.mark.parametrize(
    ("hard", "said"), [(4096, "100"), (300, "100 files have to be open at once, and this machine allows 300")]
)
def test_more_slides_than_the_soft_limit_of_open_files_are_mapped(folder: Path, hard: int, said: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", MANY, str(folder), str(hard)], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(said)


def test_enough_is_left_as_it_is() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files.allow(0)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
