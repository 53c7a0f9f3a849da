from __future__ import annotations

import pytest

from sgcl_cli.slide.open.bounds import Bounds, bounds

WHOLE = {
    "openslide.bounds-x": "-3",
    "openslide.bounds-y": "900",
    "openslide.bounds-width": "3072",
    "openslide.bounds-height": "2048",
}


def test_the_scanned_part_is_what_all_four_properties_say():
    found = bounds(WHOLE | {"openslide.vendor": "mirax"})
    assert found == Bounds(-3, 900, 3072, 2048) and found.corner == (-3, 900) and found.size == (3072, 2048)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [None, "1.5", "", "wide"])
def test_without_one_of_them_there_is_none(name, value):
    part = {key: text for key, text in WHOLE.items() if key != name}
    assert bounds(part if value is None else part | {name: value}) is None
    assert bounds(WHOLE | {"openslide.bounds-width": "0"}) is None
