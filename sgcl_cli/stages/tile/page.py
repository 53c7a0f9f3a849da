"""index.html of a tiled cohort."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.results import Failure, versions
from sgcl_cli.config import TileConfig
from sgcl_cli.report.cohort import Class, CohortPage, SlideCard, picture_side, render
from sgcl_cli.slide import colours, overlay
from sgcl_cli.stages.tile.job import Row


def write_page(
    out: Path,
    config: TileConfig,
    rows: Sequence[Row],
    failures: Sequence[Failure],
    *,
    warnings: Sequence[str],
    warned: Mapping[str, str],
    names: Sequence[str],
    artefact: str,
) -> None:
    """Write index.html.

    :param warnings: on the cohort as a whole.
    :param warned: warnings on single slides, by slide id.
    :param names: classes in the order of their labels.
    :param artefact: id of the output.
    """
    side = picture_side(len(rows))
    painted = {name: colours.hexadecimal(colours.of_class(number)) for number, name in enumerate(names)}
    cards = [_card(out, row, side, warned.get(row.slide_id, ""), painted) for row in rows]
    cards += [_failed(failure) for failure in failures]
    total = sum((Counter(row.labels or {}) for row in rows), Counter[str]())
    patches = sum(row.patches for row in rows)
    store.write_text(
        out / "index.html",
        render(
            CohortPage(
                title=f"{len(rows) + len(failures):,} slides, {patches:,} patches",
                facts=_facts(config, rows, failures),
                warnings=warnings,
                slides=sorted(cards, key=lambda card: card.slide_id),
                command=config.command_line(),
                provenance=[
                    ("Output", artefact),
                    ("Versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
                ],
                classes=_classes(total, patches, painted) if names else (),
            )
        ),
    )


def _facts(config: TileConfig, rows: Sequence[Row], failures: Sequence[Failure]) -> list[str]:
    tissue = sum(row.tissue_mm2 or 0 for row in rows)
    ink = sum(row.ink_mm2 or 0 for row in rows)
    empty = sum(row.patches == 0 for row in rows)
    return [
        f"{config.patch_size} px at {config.mpp:g} µm/px",
        *([f"overlap {config.overlap} px"] if config.overlap else []),
        *(
            [f"at least {config.min_tissue:.0%} tissue", f"{tissue:,.1f} mm² of tissue"]
            if config.from_coords is None
            else ["patches at coordinates from files"]
        ),
        *([f"{ink:,.2f} mm² of ink"] if ink >= 0.005 else []),
        *([f"{empty} without patches"] if empty else []),
        *([f"{len(failures)} failed"] if failures else []),
        *(["coordinates only"] if config.coords_only else []),
    ]


def _card(out: Path, row: Row, side: int, warning: str, painted: Mapping[str, str]) -> SlideCard:
    facts = [
        ("Patches", f"{row.patches:,}"),
        *([("Tissue", _tissue_text(row))] if row.tissue_mm2 is not None else []),
        *([("Ink", f"{row.ink_mm2:.2f} mm²")] if row.ink_mm2 else []),
        ("Level 0", f"{row.width:,} × {row.height:,} px"),
        ("Resolution", f"{_mpp_text(row)} µm/px ({row.mpp_source})"),
        ("Read from", f"level {row.level}"),
        *([("Time", f"{row.seconds:.1f} s")] if row.seconds is not None else []),
        ("File", row.path),
    ]
    return SlideCard(
        slide_id=row.slide_id,
        status=("done" if row.patches else "empty") + (" warned" if warning else ""),
        facts=facts,
        picture=_picture(out / "overlays" / f"{row.slide_id}.jpg", side),
        problems=[text for text in (row.reason, warning) if text],
        classes=_classes(Counter(row.labels), row.patches, painted) if row.labels is not None else (),
        patches=row.patches,
        tissue_mm2=row.tissue_mm2,
        mpp=row.mpp,
        seconds=row.seconds,
    )


def _tissue_text(row: Row) -> str:
    return f"{row.tissue_mm2:.2f} mm²" + (f" ({row.tissue_preset})" if row.tissue_preset else "")


def _mpp_text(row: Row) -> str:
    return f"{row.mpp:.4g}" if row.mpp == row.mpp_y else f"{row.mpp:.4g} across, {row.mpp_y:.4g} down,"


def _failed(failure: Failure) -> SlideCard:
    return SlideCard(
        slide_id=failure.slide_id,
        status="failed",
        facts=[("File", failure.path)],
        problems=[f"{failure.reason}. What to do: {failure.hint}" if failure.hint else failure.reason],
    )


def _picture(path: Path, side: int) -> bytes:
    try:
        return overlay.reduced(path.read_bytes(), side)
    except (OSError, ValueError):
        return b""


def _classes(counts: Mapping[str, int], patches: int, painted: Mapping[str, str]) -> list[Class]:
    known = [Class(name, colour, counts.get(name, 0)) for name, colour in painted.items()]
    unknown = patches - sum(part.count for part in known)
    return [*known, Class("unknown", colours.hexadecimal(colours.UNKNOWN), unknown)]
