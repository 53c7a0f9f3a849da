from __future__ import annotations

from typing import get_args

from sgcl_cli.config import PretrainConfig
from sgcl_cli.config.objective import BaseName
from sgcl_cli.method.bases import BASES
from sgcl_cli.method.objective import WantedViews
from sgcl_cli.method.objectives import OBJECTIVES
from sgcl_cli.method.resolve import resolve
from tests.method.made import options


def test_each_choice_of_the_command_line_has_a_row():
    assert get_args(BaseName) == tuple(OBJECTIVES) and BASES.keys() <= OBJECTIVES.keys()
    assert {recipe.get("base", "npid") for recipe in PretrainConfig.recipes.values()} <= OBJECTIVES.keys()


def test_the_views_that_are_wanted_follow_from_base_and_weights():
    def wanted(**changes):
        settings, _ = resolve(options(key_momentum=0.9, **changes), 100, 10, 8)
        return OBJECTIVES[settings.base].wanted_views(settings)

    assert wanted() == WantedViews(corners=True)
    assert wanted(weight_inner=0.0) == WantedViews()
    assert wanted(base="moco") == WantedViews(corners=True, second=True, key_momentum=0.9)
