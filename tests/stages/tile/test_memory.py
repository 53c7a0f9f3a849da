"""Memory of the whole stage, each run in a process of its own, on slides made up by benchmarks/huge.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(*options: str) -> dict[str, float]:
    command = [sys.executable, str(ROOT / "benchmarks" / "huge.py"), "--json", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    said: dict[str, float] = json.loads(done.stdout)
    return said


def test_a_wide_slide_takes_little():
    said = run("--size", "100000", "4000", "--mpp", "1")
    assert said["patches"] > 20
    assert said["peak_mib"] < 250


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("options", [(), ("--missing",), ("--levels", "3")], ids=" ".join)
def test_the_largest_slide_stays_below_a_gibibyte(options):
    said = run("--size", "150000", "100000", *options)
    assert said["patches"] > 8_000
    assert said["peak_mib"] < 1024


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("options", [(), ("--coords-only",)], ids=["pixels", "coordinates"])
def test_a_slide_of_a_thousand_mm2_of_tissue_takes_less_than_400_mib(options):
    said = run("--size", "160000", "128000", "--tissue", "0.8", *options)
    assert said["tissue_mm2"] > 1000 and said["patches"] > 60_000
    assert said["peak_mib"] < 400
