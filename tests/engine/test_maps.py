from __future__ import annotations

import numpy as np
import torch

from sgcl_cli.engine import maps


def test_features_at_a_pixel_are_what_scores_between_cells_come_from() -> None:
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(2, 3, 4, 4, generator=generator)
    weight, bias = np.random.default_rng(0).normal(size=(3, 2)), np.array([0.1, -0.2])
    whole = maps.classes_of(found, weight, bias, 16)
    rows, columns = np.meshgrid(np.arange(16), np.arange(16), indexing="ij")
    places = np.broadcast_to(np.stack([rows.ravel(), columns.ravel()], 1), (2, 256, 2))
    scores = maps.at_pixels(found, places, 16) @ weight + bias
    clear = np.abs(scores[..., 0] - scores[..., 1]) > 1e-4
    assert clear.mean() > 0.99
    assert (scores.argmax(-1) == whole.reshape(2, 256))[clear].all()


def test_rows_come_before_columns() -> None:
    found = torch.zeros(1, 1, 2, 2)
    found[0, 0, 0, 1] = 8.0  # above, right
    places = np.array([[[0, 3], [3, 0]]])
    assert maps.at_pixels(found, places, 4)[0, :, 0].tolist() == [8.0, 0.0]


def test_a_class_of_score_minus_infinity_is_never_given() -> None:
    found = torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    given = maps.classes_of(found, np.eye(2) * 100, np.array([-np.inf, 0.0]), 4)
    assert (given == 1).all()
