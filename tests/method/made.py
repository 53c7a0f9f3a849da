"""Options that the method's tests start from."""

from __future__ import annotations

from typing import Any

from sgcl_cli.config import ObjectiveOptions


def options(**changes: Any) -> ObjectiveOptions:
    """The defaults, with the published law of negatives at any number of patches, and some changes."""
    return ObjectiveOptions(**{"negative_law": "beta", **changes})


AXES = {
    "npid": options(),
    "moco": options(base="moco"),
    "as-released": options(as_released=True),
    "moco-as-released": options(base="moco", as_released=True),
    "any": options(agreement="any"),
    "three-auxiliary": options(auxiliary=3),
    "no-auxiliary": options(auxiliary=0),
    "wide": options(radius=10.0),
    "narrow": options(radius=1.1),
    "ranked-by-v": options(ranking="v"),
    "hardest": options(negative_law="hardest", negatives=20),
    "uniform": options(negative_law="uniform", negatives=60),
    "half": options(top_share=0.5),
    "all-ranks": options(top_share=1.0),
    "spatial-only": options(propagation=False),
    "semantic-only": options(expansion=False),
    "weights": options(weight_self=0.5, weight_spatial=2.0, weight_inner=0.25),
    "plain-npid": options(weight_spatial=0.0, weight_inner=0.0),
    "plain-moco": options(base="moco", weight_spatial=0.0, weight_inner=0.0),
    "no-inner": options(weight_inner=0.0, ranking="v"),
    "no-self": options(weight_self=0.0),
    "temperatures": options(temperature=0.1, spatial_temperature=0.2),
    "no-ramp": options(ramp_epochs=0.0),
}
