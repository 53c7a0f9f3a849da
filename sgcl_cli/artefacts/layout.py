"""Paths of the files of patches and features in an output, in the layout of sgcl, CLAM or TRIDENT.

CLAM reads ``patches/<slide_id>.h5`` (https://github.com/mahmoodlab/CLAM, README), TRIDENT
``<magnification>x_<size>px_<overlap>px_overlap/patches/<slide_id>_patches.h5`` (https://github.com/mahmoodlab/TRIDENT, README).
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from sgcl_cli.config import choices

Layout = choices.Layout

_MAGNIFICATIONS = (5, 10, 20, 40, 60, 80)  # nominal magnifications of TRIDENT
_TREE = re.compile(r"\d+(\.\d+)?x_\d+px_\d+px_overlap")
_SUFFIX = "_patches"


def magnification(mpp: float) -> int:
    """Nominal magnification of a resolution in µm per pixel: of TRIDENT's, the nearest to 10 / mpp by ratio."""
    return min(_MAGNIFICATIONS, key=lambda bin_: abs(math.log(bin_ * mpp / 10)))


def patches_folder(out: Path, layout: Layout, *, mpp: float, patch_size: int, overlap: int) -> Path:
    """Folder of the files of patches in an output; ``overlap`` in pixels of a patch."""
    if layout != "trident":
        return out / "patches"
    return out / tree_name(mpp=mpp, patch_size=patch_size, overlap=overlap) / "patches"


def patches_file(folder: Path, layout: Layout, slide_id: str) -> Path:
    """File of a slide in the folder of patches."""
    return folder / f"{slide_id}{_SUFFIX if layout == 'trident' else ''}.h5"


def tree_name(*, mpp: float, patch_size: int, overlap: int) -> str:
    """TRIDENT's name for a folder of patches; ``overlap`` in pixels of a patch."""
    return f"{magnification(mpp)}x_{patch_size}px_{overlap}px_overlap"


def features_folder(out: Path, layout: Layout, *, tree: str | None, encoder: str) -> Path:
    """Folder of the files of features: for CLAM ``h5_files``, for TRIDENT ``<tree>/features_<encoder>``.

    :param tree: TRIDENT's name for the folder of patches; None if their resolution is unknown.
    """
    if layout == "sgcl":
        return out
    if layout == "clam":
        return out / "h5_files"
    return out / (tree or "") / f"features_{re.sub(r'[^A-Za-z0-9._-]+', '_', encoder)}"


def features_trees(folder: Path) -> list[Path]:
    """Folders of features in an output of any layout; ``folder`` may also be such a folder itself."""
    own = [folder] if any(not path.name.startswith(".") for path in folder.glob("*.h5")) else []
    clams = [folder / "h5_files", folder / "pt_files"]
    tridents = sorted(
        path for pattern in ("features_*", "*x_*px_*px_overlap/features_*") for path in folder.glob(pattern)
    )
    return own or [path for path in clams if path.is_dir()][:1] or [path for path in tridents if path.is_dir()]


def trees(folder: Path) -> list[Path]:
    """Folders of patches in an output of any layout; ``folder`` may also be a tree in it or such a folder itself."""
    inner = [folder / "patches", *sorted(path / "patches" for path in folder.glob("*x_*px_*px_overlap") if _tree(path))]
    return [path for path in [*inner, folder] if path.is_dir() and files(path)]


def files(folder: Path) -> list[Path]:
    """HDF5 files of a folder, except hidden ones, sorted by slide id."""
    return sorted((path for path in folder.glob("*.h5") if not path.name.startswith(".")), key=slide_id)


def slide_id(path: Path) -> str:
    """Slide id of a file of patches, from its name."""
    return path.stem.removesuffix(_SUFFIX) if _tree(path.absolute().parent.parent) else path.stem


def _tree(folder: Path) -> bool:
    return _TREE.fullmatch(folder.name) is not None


def thumbnail(file: Path) -> Path | None:
    """Thumbnail of the slide of a file of patches, ``thumbnails/<slide_id>.jpg``; None if the output has none."""
    folder = file.absolute().parent.parent
    out = folder.parent if _tree(folder) else folder
    path = out / "thumbnails" / f"{slide_id(file)}.jpg"
    return path if path.is_file() else None
