from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from sgcl_cli.artefacts.checkpoint import load_encoder, save_encoder
from sgcl_cli.artefacts.features import open_features
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine import encode
from sgcl_cli.engine.loader import StoredPatches
from sgcl_cli.engine.ranks import Ranks
from sgcl_cli.engine.views import MEAN, STD
from sgcl_cli.errors import ArtefactError, ConfigError, TrainingError
from sgcl_cli.nets.encoders import ENCODERS
from sgcl_cli.nets.readout import Readout
from sgcl_cli.stages.embed.bags import Bag
from sgcl_cli.stages.embed.run import embed, shared

Make = Callable[..., Path]


def test_features_are_the_encoders_of_the_centre_crop(config: EmbedConfig) -> None:
    embed(config)
    index = PatchIndex.open(config.patches)
    card, state = load_encoder(config.encoder)
    model = ENCODERS[card.name]().eval()
    model.load_state_dict(state)
    patch = StoredPatches(index)(17).astype(np.float32) / 255
    crop = (patch[2:30, 2:30] - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(crop.transpose(2, 0, 1))[None])[0].numpy()
    files = open_features(config.out).by_slide()
    np.testing.assert_allclose(files["b"].features[1], wanted, rtol=1e-4, atol=1e-5)
    b = files["b"]
    assert np.array_equal(b.coords, index.files[1].coords) and np.array_equal(b.grid, index.files[1].grid)
    assert b.label_names == ("fine", "coarse") and np.array_equal(b.label, index.files[1].label)
    assert b.attributes["encoder_sha256"] == card.sha256 and b.attributes["patches_id"] == index.files[1].id
    assert b.geometry["patch_size_level0"] == 32
    assert not (Path(config.out) / ".part").exists() or not list((Path(config.out) / ".part").iterdir())


@pytest.mark.parametrize("change", [{"batch": 3}, {"workers": 2}])
def test_batches_and_workers_do_not_matter(config: EmbedConfig, tmp_path: Path, change: dict) -> None:
    embed(config)
    other = replace(config, out=str(tmp_path / "other"), **change)
    embed(other)
    for first, second in zip(open_features(config.out).files, open_features(other.out).files, strict=True):
        np.testing.assert_allclose(first.features, second.features, rtol=0, atol=1e-5)


def test_the_same_command_again_computes_nothing(config: EmbedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    embed(config)
    monkeypatch.setattr(encode.FrozenEncoder, "begin", lambda *_: pytest.fail("computed again"))
    assert embed(config).data["computed"] == 0


def test_a_folder_never_mixes_encoders(config: EmbedConfig, tmp_path: Path) -> None:
    embed(config)
    card, state = load_encoder(config.encoder)
    save_encoder(tmp_path / "second", card, {**state, "conv1.weight": state["conv1.weight"] + 1})
    other = replace(config, encoder=str(tmp_path / "second"))
    with pytest.raises(ConfigError, match="a.h5 was made with another encoder"):
        embed(other)
    with pytest.raises(ConfigError, match="a.h5 was made with --dtype"):
        embed(replace(config, dtype="float16"))
    embed(replace(other, overwrite=True))
    assert len({f.attributes["encoder_sha256"] for f in open_features(config.out).files}) == 1


def test_features_are_replaced_only_when_nothing_refuses_the_command(config: EmbedConfig) -> None:
    embed(config)
    before = {path.name: path.read_bytes() for path in Path(config.out).glob("*.h5")}
    with pytest.raises(TrainingError, match="cuda:99"):
        embed(replace(config, device="cuda:99", overwrite=True))
    assert {path.name: path.read_bytes() for path in Path(config.out).glob("*.h5")} == before


def test_one_damaged_slide_does_not_stop_the_rest(config: EmbedConfig) -> None:
    with h5py.File(Path(config.patches) / "patches" / "a.h5", "r+") as file:
        start = int(file["jpeg_offsets"][3])
        file["jpeg"][start : start + 50] = 0
    outcome = embed(config)
    assert [f.slide_id for f in outcome.failures] == ["a"] and "patch 3 of" in outcome.failures[0].reason
    assert outcome.failures[0].path == "patches/a.h5"
    assert [f.slide_id for f in open_features(config.out).files] == ["b"]
    assert "patch 3 of" in (Path(config.out) / "failures.csv").read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_patch_that_kills_who_decodes_it_costs_its_slide_only(
    config: EmbedConfig, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    into = StoredPatches.into

    def deadly(self: StoredPatches, i: int, pixels: np.ndarray) -> None:
        if i == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        into(self, i, pixels)

    monkeypatch.setattr(StoredPatches, "into", deadly)
    outcome = embed(replace(config, workers=workers, batch=24))  # a batch of patches of both slides
    (failure,) = outcome.failures
    assert failure.slide_id == "a" and "died (signal 9, perhaps out of memory), twice" in failure.reason
    assert [len(file.features) for file in open_features(config.out).files] == [15]


def test_a_slide_without_patches_has_no_rows(config: EmbedConfig, make_patches: Make) -> None:
    make_patches(slides={"void": (0, 0)})
    embed(config)
    assert open_features(config.out).by_slide()["void"].features.shape == (0, 512)


def test_resolutions_that_do_not_agree(config: EmbedConfig, encoder: Path) -> None:
    card, state = load_encoder(encoder)
    save_encoder(encoder, replace(card, mpp=1.0), state)
    with pytest.raises(ConfigError, match="patches are at 0.5 µm/px, the encoder was trained at 1 .*--mpp 1"):
        embed(config)
    save_encoder(encoder, replace(card, input_size=64), state)
    with pytest.raises(ConfigError, match="patches are 32 pixels, the encoder's input is 64"):
        embed(config)


def test_weights_that_do_not_fit(config: EmbedConfig, encoder: Path) -> None:
    card, state = load_encoder(encoder)
    save_encoder(encoder, replace(card, name="resnet50", embedding_size=2048), state)
    with pytest.raises(ArtefactError, match="the weights do not fit resnet50"):
        embed(config)
    save_encoder(encoder, replace(card, name="os.system"), state)
    with pytest.raises(ArtefactError, match="encoder 'os.system' is not known"):
        embed(config)


def test_an_encoder_that_gives_nan(config: EmbedConfig, encoder: Path) -> None:
    card, state = load_encoder(encoder)
    save_encoder(
        encoder,
        card,
        {name: value * float("nan") if value.is_floating_point() else value for name, value in state.items()},
    )
    with pytest.raises(ArtefactError, match="none of 2 files could be embedded: features of a are not finite"):
        embed(config)
    assert not list(Path(config.out).glob("*.h5"))


def test_nan_of_one_slide_costs_that_slide(config: EmbedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches hold patches of both slides; the seventeenth patch is the second slide's first."""
    call, seen = encode.FrozenEncoder.begin, [0]

    def flawed(self: encode.FrozenEncoder, patches: torch.Tensor) -> Callable[[], np.ndarray]:
        rows = call(self, patches)()
        rows[max(0, 16 - seen[0]) :] = np.nan
        seen[0] += len(patches)
        return lambda: rows

    monkeypatch.setattr(encode.FrozenEncoder, "begin", flawed)
    outcome = embed(replace(config, batch=12))
    assert [(failure.slide_id, failure.reason) for failure in outcome.failures] == [
        ("b", "features of b are not finite as float32")
    ]
    assert [file.slide_id for file in open_features(config.out).files] == ["a"]


def test_an_encoder_that_gives_another_number_of_rows(config: EmbedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes the trial with one image; what it gives for a batch would otherwise be put at the wrong patches."""
    forward = Readout.forward
    monkeypatch.setattr(Readout, "forward", lambda self, images: forward(self, images)[:1])
    with pytest.raises(ArtefactError, match=r"resnet18 gives \(1, 512\) for 16 images, not \(16, 512\)"):
        embed(config)
    assert not list(Path(config.out).glob("*.h5"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "nowhere"}, "no such encoder: nowhere .*sgcl pretrain"),
        ({"encoder": "nowhere.pth", "arch": "resnet18"}, "no such encoder: nowhere.pth"),
        ({"encoder": "empty"}, "empty has no encoder.safetensors"),
    ],
)
def test_weights_that_are_missing(
    config: EmbedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises((ArtefactError, ConfigError), match=message):
        embed(replace(config, **change))
    assert not Path(config.out).exists()


def test_patches_of_mixed_resolutions_are_refused(config: EmbedConfig) -> None:
    with h5py.File(Path(config.patches) / "patches" / "b.h5", "r+") as file:
        file.attrs["config"] = json.dumps({**json.loads(file.attrs["config"]), "mpp": 1.0})
    with pytest.raises(ArtefactError, match="b.h5 was made with mpp 1.0, a.h5 with 0.5 .*same settings"):
        embed(config)
    assert not Path(config.out).exists()


def test_dry_run_writes_nothing(config: EmbedConfig) -> None:
    assert embed(replace(config, dry_run=True)).data == {"files": 2, "patches": 31, "dim": 512}
    assert not Path(config.out).exists()


def test_a_truncated_file_of_patches_costs_its_slide(config: EmbedConfig) -> None:
    path = Path(config.patches) / "patches" / "a.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    outcome = embed(config)
    assert [(f.slide_id, f.path) for f in outcome.failures] == [("a", "patches/a.h5")]
    assert [f.slide_id for f in open_features(config.out).files] == ["b"]


def test_what_storage_takes_is_told(config: EmbedConfig, tmp_path: Path) -> None:
    exact = embed(config)
    assert exact.data["rounding"] == {"dtype": "float32", "largest": 0.0, "mean": 0.0}
    half = embed(replace(config, dtype="float16", out=str(tmp_path / "half"))).data["rounding"]
    pairs = zip(open_features(config.out).files, open_features(tmp_path / "half").files, strict=True)
    differences = np.concatenate([np.abs(a.features - b.features.astype(np.float32)).ravel() for a, b in pairs])
    assert half["largest"] == pytest.approx(differences.max(), rel=1e-3) and half["largest"] > 0
    assert half["mean"] == pytest.approx(differences.mean(), rel=1e-3)


def test_slides_are_shared_by_their_patches() -> None:
    sizes = [7, 100, 3, 60, 50, 2]
    bags = [Bag(str(n), "", Path(), n, size, {}, {}, None) for n, size in enumerate(sizes)]
    shares = [shared(bags, Ranks(rank, 2)) for rank in range(2)]
    assert sorted(bag.slide_id for share in shares for bag in share) == [*"012345"]
    assert [sum(bag.count for bag in share) for share in shares] == [112, 110]


@pytest.mark.timeout(600)
def test_two_processes_share_the_slides(config: EmbedConfig, tmp_path: Path) -> None:
    embed(config)
    out = tmp_path / "two"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "sgcl_cli", "embed", config.patches, "--encoder", config.encoder, "--json"]
    command += ["--out", str(out), "--dtype", "float32", "--threads", "1", "--device", "cpu"]
    together = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **together, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=500) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert json.loads(said[0][0])["patches"] == 31 and said[1][0] == ""
    for first, second in zip(open_features(config.out).files, open_features(out).files, strict=True):
        np.testing.assert_allclose(first.features, second.features, rtol=0, atol=1e-5)


def test_features_for_clams_and_tridents_models_are_float32(config: EmbedConfig) -> None:
    """Their layers refuse half precision; what is set by hand stands, and is in the command that is recorded."""
    given = {"patches": config.patches, "encoder": config.encoder, "out": config.out}
    chosen = {layout: EmbedConfig.resolve(given, {"layout": layout}) for layout in ("sgcl", "clam", "trident")}
    assert {layout: each.dtype for layout, each in chosen.items()} == {
        "sgcl": "float16",
        "clam": "float32",
        "trident": "float32",
    }
    half = EmbedConfig.resolve(given, {"layout": "clam", "dtype": "float16"})
    assert half.dtype == "float16" and "--dtype float16" in half.command_line()
    embed(chosen["clam"])
    (path, *_) = sorted((Path(config.out) / "h5_files").glob("*.h5"))
    with h5py.File(path) as file:
        layer = torch.nn.Linear(file["features"].shape[1], 2)
        assert layer(torch.from_numpy(file["features"][:])).shape == (len(file["coords"]), 2)
        assert np.issubdtype(type(file["coords"].attrs["patch_size_level0"]), np.integer)
