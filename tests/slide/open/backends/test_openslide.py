from __future__ import annotations

from pathlib import Path

from sgcl_cli.slide.open.backends.openslide import dicom_series


def test_dicom_series(real_data: Path):
    vendor = real_data / "vendor"
    assert dicom_series(vendor / "boxes_0.dcm") == dicom_series(vendor / "boxes_1.dcm") is not None
    assert dicom_series(vendor / "small_dicom.dcm") is None
