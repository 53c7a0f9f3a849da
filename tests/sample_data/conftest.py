from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

SAMPLE_DATA = Path(__file__).resolve().parents[2] / "sample_data"
sys.path.insert(0, str(SAMPLE_DATA))


@pytest.fixture(scope="session")
def sample_data() -> Path:
    return SAMPLE_DATA


@pytest.fixture(scope="session")
def small_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven slides of about half a millimetre a side, of all sites, the second with a pen mark."""
    import make_slides

    out = tmp_path_factory.mktemp("cohort")
    make_slides.make_cohort(make_slides.cohort(7, seed=3, side_um=(430, 500)), out)
    return out


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What sample_data/demo.sh writes, run once for all workers; SGCL_DEMO names the folder of a run that exists already."""
    if "SGCL_DEMO" in os.environ:
        return Path(os.environ["SGCL_DEMO"])
    of_worker = tmp_path_factory.getbasetemp()
    folder = of_worker.parent if "PYTEST_XDIST_WORKER" in os.environ else of_worker
    out, finished = folder / "demo", folder / "demo.finished"
    with FileLock(folder / "demo.lock"):
        if not finished.exists():
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
            done = subprocess.run(
                ["bash", SAMPLE_DATA / "demo.sh", out], env={**os.environ, "PATH": path}, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            finished.touch()
    return out
