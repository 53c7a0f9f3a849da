from __future__ import annotations

from sgcl_cli.progress import Silent
from sgcl_cli.stages.tile import tile
from tests.stages.tile.made import (
    config,
    write_slide,
)


def test_the_page_shows_every_slide_and_nothing_a_name_could_do(tmp_path, inline):
    folder = tmp_path / "in"
    write_slide(folder / "a%20'b' <i>&.tif")
    write_slide(folder / "coarse.tif", mpp=8.0)
    write_slide(folder / "blank.tif", tissue=False)
    (folder / "<script>alert(1)</script>.svs".replace("/", "")).write_text("no slide")
    outcome = tile(config(tmp_path / "out", folder, allow_upsample=True), Silent())
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count('<article class="slide"') == outcome.total == 4
    assert "<script>alert" not in page and "<i>" not in page
    (patches,) = [row["patches"] for row in outcome.data["slides"] if "%20" in row["slide_id"]]
    assert f'data-status="done" data-patches="{patches}"' in page
    assert 'data-status="empty"' in page and "no tissue found" in page
    assert (
        'data-status="failed"' in page
        and "is not a slide that OpenSlide recognises: Unsupported or missing image file. What to do: " in page
    )
    assert 'href="overlays/a%2520%27b%27%20%3Ci%3E%26.jpg"' in page
    assert "level 0 is 2 µm/px on some slides, 8 on others" in page
    assert page.count("are enlarged and lack detail") == 1 and str(tmp_path / "in" / "a") not in page
