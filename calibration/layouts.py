"""Recognise how a folder of pictures is laid out (DIV2K, EDSR, BSDS500, SelfExSR, plain): a folder in, pairs of files out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from calibration.pairs import ImageSet, Pair
from runtime.errors import DatasetError
from runtime.images import is_image_file

Use = Literal["calibration", "evaluation"]


def read_folder(folder: Path, *, name: str, scale: float, use: Use) -> ImageSet:
    """Return the pictures in `folder`, by the first layout that fits.

    Raises:
        DatasetError: none does.
    """
    for layout in (_split_layout, _paired_names_layout, _plain_layout):
        pairs = layout(folder, scale, use)
        if pairs:
            return ImageSet(name, tuple(sorted(pairs, key=lambda pair: pair.name)))
    raise DatasetError(
        f"{folder} has no pictures for scale {scale:g}, in no layout known here",
        hint="a folder of pictures, DIV2K's layout, or NAME_LR/NAME_HR pairs are read",
    )


def _split_layout(folder: Path, scale: float, use: Use) -> Sequence[Pair]:
    """DIV2K's folders (one for high, one for low resolution), EDSR's benchmark folders, or BSDS500's train and test."""
    splits = ("train", "valid", "test") if use == "calibration" else ("valid", "test", "train")
    for split in splits:
        pairs = _two_folders(folder / f"DIV2K_{split}_HR", folder / f"DIV2K_{split}_LR_bicubic" / f"X{scale:g}", use)
        pairs = pairs or _two_folders(folder / split, None, use)
        if pairs:
            return pairs
    return _two_folders(folder / "HR", folder / "LR_bicubic" / f"X{scale:g}", use)


def _two_folders(high_folder: Path, low_folder: Path | None, use: Use) -> list[Pair]:
    """Pairs by name, the low file's ending in xS; for evaluation only those that have a high one."""
    high = {path.stem: path for path in _pictures(high_folder)}
    low = {re.sub(r"x\d+$", "", path.stem): path for path in _pictures(low_folder)}
    names = high.keys() | low.keys() if use == "calibration" else high.keys()
    return [Pair(name, high.get(name), low.get(name)) for name in names]


def _paired_names_layout(folder: Path, scale: float, use: Use) -> Sequence[Pair]:
    """NAME_HR and NAME_LR side by side, as in SelfExSR's Set5 and Set14 (a folder image_SRF_S for each scale)."""
    del use
    inside = folder / f"image_SRF_{scale:g}"
    files = {path.stem: path for path in _pictures(inside if inside.is_dir() else folder)}
    stems = [stem.removesuffix("_HR") for stem in files if stem.endswith("_HR")]
    return [Pair(stem, files[f"{stem}_HR"], files.get(f"{stem}_LR")) for stem in stems]


def _plain_layout(folder: Path, scale: float, use: Use) -> Sequence[Pair]:
    del scale
    if use == "calibration":
        return [Pair(path.stem, None, path) for path in _pictures(folder)]
    return [Pair(path.stem, path, None) for path in _pictures(folder)]


def _pictures(folder: Path | None) -> list[Path]:
    if folder is None or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_image_file(path))
