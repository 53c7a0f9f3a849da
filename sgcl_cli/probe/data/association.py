"""Association of labels with sites, which lets a model recognise sites instead of classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

from sgcl_cli.probe.data.audit import Audit

STRONG = 0.3


def cramers_v(first: NDArray[np.generic], second: NDArray[np.generic]) -> tuple[float, float] | None:
    """Cramer's V of two labellings (n,) with the bias correction of Bergsma (2013), and p of the chi^2 test.

    phi^2 = chi^2 / n;  V = sqrt( max(0, phi^2 - (k-1)(r-1)/(n-1)) / min(k' - 1, r' - 1) ),  k' = k - (k-1)^2/(n-1),
    r' likewise. None if one of the two has a single value.
    """
    _, row = np.unique(first, return_inverse=True)
    _, column = np.unique(second, return_inverse=True)
    shape = int(row.max()) + 1, int(column.max()) + 1
    if min(shape) < 2:
        return None
    table = np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)
    n = len(row)
    chi_square, p = chi2_contingency(table, correction=False)[:2]
    phi = max(0.0, chi_square / n - (shape[0] - 1) * (shape[1] - 1) / (n - 1))
    sides = [size - (size - 1) ** 2 / (n - 1) for size in shape]
    room = min(sides) - 1
    return (float(np.sqrt(phi / room)) if room > 0 else 0.0), float(p)


def audit_sites(label: NDArray[np.int64], site: NDArray[np.str_], patient: NDArray[np.str_], audit: Audit) -> None:
    """Warn if classes and sites of the patients are associated: V above 0.3.

    Each patient counts once per pair of class and site; rows without a site are left out.
    """
    known = site != ""
    cells = sorted(set(zip(patient[known].tolist(), label[known].tolist(), site[known].tolist(), strict=True)))
    if len(cells) < 2:
        return
    found = cramers_v(np.array([cell[1] for cell in cells]), np.array([cell[2] for cell in cells]))
    if found is None:
        return
    if found[0] > STRONG:
        audit.warn(
            "sites",
            f"labels and sites are associated (Cramer's V {found[0]:.2f}, p {found[1]:.2g}): a model may recognise sites "
            "instead of classes; compare with --cv site",
        )
