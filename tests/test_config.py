from __future__ import annotations

import dataclasses
import os
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from sgcl_cli.config import (
    Config,
    EmbedConfig,
    EvaluateConfig,
    ObjectiveOptions,
    PretrainConfig,
    TileConfig,
    describe,
    differences,
    failures_allowed,
    flag,
    load_toml,
    whole_number,
)
from sgcl_cli.errors import ConfigError

KINDS = [TileConfig, PretrainConfig, EmbedConfig, EvaluateConfig]


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_help_that_ends_a_sentence(kind: type) -> None:
    for name, meta, _ in describe(kind):
        assert meta.help.endswith("."), name


def test_precedence_is_default_toml_flag() -> None:
    config = TileConfig.resolve({"mpp": 1.0, "patch-size": 128}, {"mpp": 0.25, "out": "o"})
    assert (config.mpp, config.patch_size, config.overlap) == (0.25, 128, 0)


def test_a_recipe_stands_between_defaults_and_toml() -> None:
    base = {"patches": "p", "out": "o"}
    assert PretrainConfig.resolve(base, {"recipe": "moco"}).weight_spatial == 0
    config = PretrainConfig.resolve(
        {**base, "recipe": "moco", "weight-inner": 0.5}, {"recipe": "sgcl-no-inner", "radius": 5}
    )
    assert (config.base, config.weight_spatial, config.weight_inner, config.radius) == ("npid", 1.0, 0.5, 5)
    for name in PretrainConfig.recipes:
        PretrainConfig.resolve(base, {"recipe": name})


def test_a_recipe_that_was_renamed_or_is_none() -> None:
    base = {"patches": "p", "out": "o"}
    with pytest.raises(ConfigError, match="there is no recipe 'sslp'") as raised:
        PretrainConfig.resolve(base, {"recipe": "sslp"})
    assert "now called sgcl-no-inner" in raised.value.hint and "--ranking v" in raised.value.hint
    with pytest.raises(ConfigError, match="there is no recipe 'simclr'") as raised:
        PretrainConfig.resolve(base, {"recipe": "simclr"})
    assert raised.value.hint == "choose one of: sgcl, sgcl-moco, sgcl-no-inner, npid, npid-inner, moco, sgcl-paper"


def test_a_recipe_and_the_same_flags_are_the_same_run() -> None:
    base = {"patches": "p", "out": "o"}
    by_flags = PretrainConfig.resolve(base, {"weight_spatial": 0.0, "weight_inner": 0.0})
    assert by_flags.affecting() == PretrainConfig.resolve(base, {"recipe": "npid"}).affecting()


def test_unset_flags_leave_toml_alone() -> None:
    assert TileConfig.resolve({"mpp": 1.0, "out": "o"}, {"mpp": None}).mpp == 1.0


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'patchsize'.*patch_size"):
        TileConfig.resolve({"patchsize": 1, "out": "o"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mpp": 0.0}, "--mpp is 0.0; it must be at least 0.001"),
        ({"mpp": -1.0}, "--mpp is -1.0"),
        ({"mpp": float("nan")}, "--mpp is nan"),
        ({"mpp": "fine"}, "--mpp takes a number"),
        ({"patch_size": 12.5}, "--patch-size takes a whole number"),
        ({"patch_size": True}, "--patch-size takes a whole number"),
        ({"overlap": 256}, "--overlap 256 is not smaller than --patch-size 256"),
        ({"id_from": "name"}, "--id-from is 'name'.*stem, path"),
        ({"allow_failures": "some"}, "--allow-failures some is neither"),
        ({"slides": "a.svs"}, "--slides takes a list"),
        ({"shard": "0/4"}, "--shard is '0/4'; it must be i/n with i from 1 to n"),
        ({"shard": "5/4"}, "--shard is '5/4'"),
        ({"shard": "1"}, "--shard is '1'"),
        ({"shard": "-1/4"}, "--shard is '-1/4'"),
    ],
)
def test_bad_values_are_refused_by_flag(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TileConfig.resolve({"out": "o"}, settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "resnet19"}, "--encoder is 'resnet19' .did you mean 'resnet18'. .*timm:NAME"),
        ({"encoder": "transformers:a"}, "--encoder is 'transformers:a'"),
        ({"encoder": "os.system"}, "--encoder is 'os.system'"),
    ],
)
def test_architectures_that_cannot_be_trained(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PretrainConfig.resolve({"patches": "p", "out": "o"}, settings)
    for encoder in ("vit_small", "timm:a", "timm:hf-hub:o/a", "package.module:factory"):
        assert PretrainConfig(patches="p", out="o", encoder=encoder).encoder == encoder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arch": "resnet"}, "--arch is 'resnet'"),
        ({"mean": "0.5"}, "--mean is '0.5' .*red,green,blue"),
        ({"std": "0.1,0.1,0"}, "--std is '0.1,0.1,0' .*greater than 0"),
        ({"std": "a,b,c"}, "--std is 'a,b,c'"),
        ({"pool": "max"}, "--pool is 'max'.*cls"),
    ],
)
def test_encoders_that_cannot_be_described_so(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbedConfig.resolve({"patches": "p", "out": "o", "encoder": "run"}, settings)


def test_evaluate_takes_one_of_two_forms() -> None:
    for settings in ({}, {"train": "a"}, {"features": "f", "train": "a", "test": "b"}):
        with pytest.raises(ConfigError):
            EvaluateConfig.resolve({"out": "o"}, settings)
    assert EvaluateConfig.resolve({"out": "o", "train": "a", "test": "b"}).features is None


def test_only_affecting_fields_enter_the_identity() -> None:
    first = TileConfig(out="a", workers=1, slides=("x",))
    second = TileConfig(out="b", workers=2, slides=("y",), threads=3)
    assert first.affecting() == second.affecting()
    assert first.affecting() != dataclasses.replace(first, mpp=1.0).affecting()


def test_differences_name_the_field_and_both_values() -> None:
    assert differences({"mpp": 0.5, "seed": 0}, {"mpp": 0.25, "seed": 0}) == ["--mpp was 0.5, is 0.25"]


@pytest.mark.parametrize(("rule", "allowed"), [("0", 0), ("3", 3), ("2%", 4), ("100%", 200)])
def test_failures_allowed(rule: str, allowed: int) -> None:
    assert failures_allowed(rule, 200) == allowed


@pytest.mark.parametrize("rule", ["-1", "101%", "nan%", "x", ""])
def test_failures_rule_must_be_a_count_or_share(rule: str) -> None:
    with pytest.raises(ConfigError):
        failures_allowed(rule, 10)


def test_toml_tables(tmp_path: Path) -> None:
    path = tmp_path / "sgcl.toml"
    path.write_text("\ufeff[tile]\nmpp = 1\n[pretrain]\nepochs = 3\n", encoding="utf-8")
    assert load_toml(path, "tile") == {"mpp": 1}
    assert load_toml(path, "embed") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [("[tiles]\nmpp = 1", r"'tiles'.*\[tile\]"), ("mpp = 1", "'mpp'"), ("[tile", "not valid TOML")],
)
def test_bad_toml(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sgcl.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_toml(path, "tile")


def test_missing_toml() -> None:
    with pytest.raises(ConfigError, match="cannot read absent.toml"):
        load_toml("absent.toml", "tile")


def test_the_command_line_says_what_is_not_default():
    config = TileConfig(
        slides=("a b", "c"), out="o", mpp=0.25, coords_only=True, label_names="x, y", annotations="m", workers=3
    )
    expected = "sgcl tile 'a b' c --out o --mpp 0.25 --coords-only --annotations m --label-names 'x, y'"
    assert config.command_line() == expected
    assert (
        PretrainConfig(patches="p", out="o", expansion=False).command_line() == "sgcl pretrain p --out o --no-expansion"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": "f", "time": "months"}, "--time and --event go together"),
        ({"features": "f", "time": "months", "event": "dead", "task": "binary"}, "are for survival, not --task binary"),
        ({"features": "f", "splits": "s.csv", "cv": "site"}, "--splits and --cv site both divide"),
        ({"train": "a", "test": "b", "splits": "s.csv"}, "already define the split"),
        ({"train": "a", "test": "b", "cv": "site"}, "already define the split"),
        ({"features": "f", "models": "gated-abmil,resnet"}, "there is no 'resnet'"),
    ],
)
def test_settings_of_evaluate_that_contradict_each_other_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig(out="o", **settings)


def test_the_command_line_tells_paths_from_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = TileConfig(slides=(str(tmp_path / "here/in"), "plain"), out=str(tmp_path / "out"))
    assert config.command_line() == "sgcl tile in plain --out ../out"


@pytest.mark.parametrize(
    "change",
    [
        {"base": "simclr"},
        {"agreement": "most"},
        {"negative_law": "normal"},
        {"ranking": "x"},
        {"bank_dtype": "float16"},
        {"temperature": 0.0},
        {"spatial_temperature": float("nan")},
        {"radius": -1.0},
        {"top_share": 1.5},
        {"top_share": 0.0},
        {"bank_momentum": 0.0},
        {"key_momentum": 2.0},
        {"weight_spatial": -1.0},
        {"ramp_epochs": -1.0},
        {"neighbours": 0},
        {"auxiliary": -1},
    ],
)
def test_a_value_of_the_objective_without_meaning_is_refused_by_flag(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=flag(next(iter(change)))):
        ObjectiveOptions(**change)


@pytest.mark.parametrize("spatial", [{"weight_spatial": 0.0}, {"expansion": False, "propagation": False}])
def test_an_objective_without_a_term_is_refused(spatial: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"the objective has no active term.*--weight-self"):
        ObjectiveOptions(weight_self=0.0, weight_inner=0.0, **spatial)
    ObjectiveOptions(weight_self=0.0, weight_inner=0.1, **spatial)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (EmbedConfig, "batch", 10**12),
        (EmbedConfig, "threads", 10**400),
        (EmbedConfig, "workers", 10**9),
        (EmbedConfig, "encoder_mpp", 1e300),
        (EmbedConfig, "encoder_mpp", 1e-300),
        (EmbedConfig, "slide_timeout", 1e300),
        (TileConfig, "seed", 10**400),
        (TileConfig, "mpp", 10**400),
        (TileConfig, "min_area", 1e300),
        (EvaluateConfig, "bootstrap", 10**12),
        (EvaluateConfig, "seeds", 10**12),
        (EvaluateConfig, "mil_hidden", 10**12),
        (PretrainConfig, "epochs", 10**12),
        (PretrainConfig, "negatives", 10**12),
        (PretrainConfig, "radius", 1e300),
        (EmbedConfig, "out", ""),
        (EmbedConfig, "also", " "),
        (EmbedConfig, "groups", "a\0b"),
        (TileConfig, "slides", ("a", "")),
        (TileConfig, "slides", 5),
    ],
    ids=range(20),
)
def test_values_beyond_any_use_are_refused(kind: type[Config], name: str, value: object) -> None:
    needed = {"out": "o", "patches": "p", "encoder": "e", "features": "f"}
    given = {key: text for key, text in needed.items() if key in {spec.name for spec in fields(kind)}}
    with pytest.raises(ConfigError, match=f"^{flag(name)} (is|contains|takes)") as caught:
        kind.resolve({**given, name: value})
    assert len(caught.value.message) < 150


@pytest.mark.parametrize("kind", [TileConfig, EmbedConfig, EvaluateConfig, PretrainConfig])
def test_every_number_has_an_upper_bound(kind: type[Config]) -> None:
    needed = {"out": "o", "patches": "p", "encoder": "e", "features": "f"}
    given = {key: text for key, text in needed.items() if key in {spec.name for spec in fields(kind)}}
    for name, _, hint in describe(kind):
        if {int, float} & {hint, *get_args(hint)}:
            with pytest.raises(ConfigError, match=f"^{flag(name)} is"):
                kind.resolve({**given, name: 10**13})


@pytest.mark.parametrize("text", ["²", "9" * 5000, "", "-1", "1.0", "11", "0", " "], ids=range(8))
def test_text_that_is_no_whole_number_in_range(text: str) -> None:
    assert whole_number(text, 1, 10) is None


def test_whole_numbers_in_range() -> None:
    assert [whole_number(text, 1, 10) for text in ("1", " 10 ", "007", "٣")] == [1, 10, 7, 3]


@pytest.mark.parametrize("shard", ["²/3", "1/" + "9" * 5000, "0/3", "4/3", "1/10000000"], ids=range(5))
def test_shards_that_are_none(shard: str) -> None:
    with pytest.raises(ConfigError, match="^--shard is"):
        TileConfig(slides=("a",), out="o", shard=shard)


@pytest.mark.parametrize("rule", ["²", "9" * 5000, "-1", "101%", "nan%"], ids=range(5))
def test_allowed_failures_that_are_none(rule: str) -> None:
    with pytest.raises(ConfigError, match="^--allow-failures"):
        failures_allowed(rule, 10)


@pytest.mark.parametrize(
    "text", ["[tile]\nworkers = " + "9" * 5000, "[tile]\nx = " + "[" * 5000, "[tile]\nmpp = \udcff"], ids=range(3)
)
def test_toml_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ConfigError, match="c.toml is not valid TOML"):
        load_toml(tmp_path / "c.toml", "tile")


def test_toml_is_read_from_files_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.toml")
    for path in (tmp_path / "c.toml", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match="it is not a file"):
            load_toml(path, "tile")
