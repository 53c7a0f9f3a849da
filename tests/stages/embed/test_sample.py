from __future__ import annotations

import numpy as np

from sgcl_cli.stages.embed.sample import Sample


def drawn(size: int, files: list[int], seed: int = 0) -> list[int]:
    """The numbers of the rows that stay, of files of so many rows each."""
    sample, start = Sample(size, seed), 0
    for count in files:
        sample.add(np.arange(start, start + count, dtype=np.int64)[:, None])
        start += count
    return sorted(sample.rows[:, 0].tolist())


def test_all_rows_stay_where_there_are_few() -> None:
    assert drawn(10, [3, 0, 4]) == [0, 1, 2, 3, 4, 5, 6]


def test_no_row_is_drawn_twice() -> None:
    found = drawn(20, [50, 1, 70])
    assert len(found) == len({*found}) == 20 and found[-1] < 121


def test_the_sample_does_not_depend_on_how_rows_are_filed() -> None:
    assert drawn(20, [121]) == drawn(20, [50, 1, 70])
    assert drawn(20, [121], seed=1) != drawn(20, [121])


def test_every_row_is_as_likely() -> None:
    counts = np.bincount(np.concatenate([drawn(5, [7, 2, 11], seed) for seed in range(800)]), minlength=20)
    assert counts.sum() == 4000
    assert np.abs(counts - 200).max() < 5 * np.sqrt(200 * 0.75)


def test_features_keep_their_type() -> None:
    sample = Sample(2, 0)
    sample.add(np.ones((3, 4), np.float16))
    assert sample.rows.dtype == np.float16 and sample.rows.shape == (2, 4)
