from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from sgcl_cli.config import PretrainConfig
from sgcl_cli.stages.pretrain import pretrain
from sgcl_cli.stages.pretrain.finish import headline


def test_slides_are_listed_with_those_of_which_a_probe_used_the_labels(config: PretrainConfig) -> None:
    for probe, used in ((None, "0"), ("labels", "1")):
        out = f"{config.out}-{used}"
        pretrain(replace(config, epochs=1, probe=probe, out=out))
        with (Path(out) / "slides.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["slide_id"], row["patches"], row["identity"], row["probe"]) for row in rows] == [
            ("a", "16", "identity of a", used),
            ("b", "15", "identity of b", used),
        ]


def test_the_closing_table_leaves_out_terms_without_a_value() -> None:
    loss = {"total": 1.25, "self": 1.0, "spatial": None}
    data = {"patches": 1_234, "slides": 2, "epochs": 3, "steps": 4_000, "images_per_second": 9.87}
    rows = dict(headline(Path("run"), {**data, "last_epoch": {"loss": loss}}))
    assert rows["patches"] == "1,234 of 2 slides" and rows["epochs"] == "3, 4,000 steps"
    assert rows["loss, last epoch"] == "total 1.250  self 1.000"
    assert rows["images per second"] == "9.9" and rows["encoder"] == str(Path("run") / "encoder.safetensors")
