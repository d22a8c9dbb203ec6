"""Find pictures on this machine: the name of a data set or a folder in, its pictures out; the list of data sets is here.

`--data` has one meaning in every command: pictures. They are named by a data set's name (`div2k`, `set5`, …), by a folder of
pictures, or by a folder that holds data sets, of which `--calib NAME`, where a command has that, says which. A name is looked for
under that folder, then under SREDGE_DATA, then in the download cache.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from calibration.fetch import OnBytes, fetch_archive
from calibration.layouts import Use, read_folder
from calibration.pairs import ImageSet, Pair
from runtime.errors import DatasetError, UnknownNameError, UserError
from runtime.images import is_image_file

_FOLDER_VARIABLE = "SREDGE_DATA"


class MissingDatasetError(DatasetError):
    """A known data set that is nowhere to be found on this machine."""


@dataclass(frozen=True)
class Dataset:
    """A data set known by name.

    Attributes:
        name: what the command line calls it.
        folder: the folder it is looked for as, under a root.
        archives: by (scale, or 0 for every scale), what `--download` fetches: URL and sha256 of a zip that unpacks into `folder`.
    """

    name: str
    folder: str
    archives: Mapping[float, tuple[str, str]] = field(default_factory=dict)


_DIV2K = "https://data.vision.ee.ethz.ch/cvl/DIV2K"
DATASETS: tuple[Dataset, ...] = (
    Dataset(
        "div2k",
        "DIV2K",
        # The sha256 sums are the ones TensorFlow Datasets records for these files.
        archives={
            0: (f"{_DIV2K}/DIV2K_train_HR.zip", "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335"),
            2: (
                f"{_DIV2K}/DIV2K_train_LR_bicubic_X2.zip",
                "a53a424317575838dadce4bcd97cf7b744d6855f43740ed5f0245af3cf4bd850",
            ),
        },
    ),
    Dataset("bsds500", "BSDS500"),
    Dataset("set5", "Set5"),
    Dataset("set14", "Set14"),
    Dataset("bsd100", "BSD100"),
    Dataset("urban100", "Urban100"),
)
SAMPLES = "samples"
_SAMPLE_FILES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def dataset_names() -> tuple[str, ...]:
    return (*(dataset.name for dataset in DATASETS), SAMPLES)


DATA_HELP = f"pictures: {', '.join(dataset_names())}, a folder of pictures, or a folder that holds data sets"
"""What `--data` says of itself in every command."""
CALIB_HELP = f"which pictures of --data: {', '.join(dataset_names())}, or a folder of pictures"
"""What `--calib` says of itself in every command."""


def choose_pictures(*, calib: str | None, data: str | None, default: str | None = None) -> tuple[str, Path | None]:
    """Return what `--calib` and `--data` stand for together: what `find_images` takes as `choice`, and as `root`.

    Raises:
        UserError: neither is given and there is no default, or --calib names a place of its own beside --data.
        DatasetError: --data is no folder where --calib says which data set of it.
    """
    if calib is None:
        if data is None and default is None:
            raise UserError("neither --calib nor --data says what to calibrate on", hint="--calib div2k, or --data FOLDER")
        return data or default or "", None
    if data is None:
        return calib, None
    _check_root(Path(data))
    if calib.lower() not in dataset_names():
        raise UserError(
            f"--data {data} has no effect with --calib {calib}, which is no name of a data set", hint="drop one of the two"
        )
    return calib, Path(data)


def find_images(choice: str, *, scale: float, use: Use, root: Path | None = None) -> ImageSet:
    """Return the pictures that `choice` (a known name, or a folder) stands for, `scale` being the factor between low and high.

    A folder of plain pictures is what a device would feed where `use` is calibration, and ground truth where it is evaluation.
    Where a data set has splits, calibration takes the training part and evaluation the validation or test part.

    Raises:
        MissingDatasetError: a known data set that is in none of the places looked at; lists them.
        UnknownNameError: neither a known name nor a folder.
        DatasetError: a folder without pictures, or with several data sets.
    """
    if choice.lower() == SAMPLES:
        if root is not None:
            _check_root(root)
        return _samples()
    folder = _find_folder(choice, root)
    return read_folder(folder, name=_name_of(folder), scale=scale, use=use)


def find_files(choice: str) -> tuple[Path, ...]:
    """Return every picture file of what `choice` (as for `find_images`) stands for, in folders below it too.

    Raises:
        DatasetError: there is no such data set or folder.
    """
    if choice.lower() == SAMPLES:
        return tuple(pair.high for pair in _samples().pairs if pair.high is not None)
    return tuple(sorted(path for path in _find_folder(choice, None).rglob("*") if path.is_file() and is_image_file(path)))


def _find_folder(choice: str, root: Path | None) -> Path:
    """Return the folder of a data set known by name.

    Or `choice` itself, or the one data set in it where it has no pictures of its own.
    """
    if root is not None:
        _check_root(root)
    for dataset in DATASETS:
        if dataset.name == choice.lower():
            return _locate(dataset, root)
    folder = Path(choice)
    if not folder.is_dir():
        if folder.exists() or "/" in choice or os.sep in choice:
            reason = "it is a file" if folder.exists() else "there is no such folder"
            raise DatasetError(f"{choice} is not a folder of pictures: {reason}", hint="name a folder, or samples")
        raise UnknownNameError("data set", choice, valid=dataset_names(), hint="or give the path of a folder of pictures")
    held = _held_sets(folder)
    if len(held) > 1:
        names = ", ".join(path.name for path in held)
        raise DatasetError(f"{folder} holds several data sets: {names}", hint=f"name one of them: {held[0]}")
    return held[0] if held else folder


def _held_sets(folder: Path) -> list[Path]:
    """Return the known data sets in a folder that has no pictures of its own."""
    inside = sorted(folder.iterdir())
    if any(is_image_file(path) for path in inside):
        return []
    known = {dataset.folder.lower() for dataset in DATASETS}
    return [path for path in inside if path.name.lower() in known and path.is_dir()]


def _name_of(folder: Path) -> str:
    """Return the data set's name where the folder is called as it is, else the folder's own."""
    known = {dataset.folder.lower(): dataset.name for dataset in DATASETS}
    names = (folder.name, folder.resolve().name)  # a link may be called so, or what it leads to
    return next((known[name.lower()] for name in names if name.lower() in known), names[-1])


def _check_root(root: Path) -> None:
    if not root.is_dir():
        reason = "it is a file" if root.exists() else "there is no such folder"
        raise DatasetError(f"--data {root}: {reason}", hint="--data FOLDER, which holds the data set")


def can_download(choice: str, *, scale: float) -> bool:
    """Return whether `download` knows where to get that data set."""
    return any(dataset.name == choice.lower() and {0, scale} & dataset.archives.keys() for dataset in DATASETS)


def download(choice: str, *, scale: float, on_bytes: OnBytes) -> None:
    """Fetch what calibration at `scale` needs of a data set into the cache; sha256 checked before it is unpacked.

    Raises:
        DatasetError: it has no known download, or it could not be had.
    """
    dataset = next((dataset for dataset in DATASETS if dataset.name == choice.lower()), None)
    if dataset is None or not can_download(choice, scale=scale):
        raise DatasetError(f"there is no known download of {choice!r}", hint=_by_hand(choice))
    url, sha256 = dataset.archives[scale if scale in dataset.archives else 0]
    fetch_archive(url, sha256, folder=_cache() / dataset.folder, on_bytes=on_bytes, by_hand=_by_hand(dataset.folder))


def _samples() -> ImageSet:
    try:
        import skimage.data as photographs  # comes with the quantize and benchmarks extras
    except ModuleNotFoundError as error:
        raise DatasetError("the sample photographs come with scikit-image", hint="pip install scikit-image") from error
    folder = Path(str(photographs.__file__)).parent
    return ImageSet(SAMPLES, tuple(Pair(Path(name).stem, folder / name, None) for name in _SAMPLE_FILES))


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("sredge")) / "data"


def _locate(dataset: Dataset, root: Path | None) -> Path:
    roots = [root.resolve()] if root is not None else []
    if named := os.environ.get(_FOLDER_VARIABLE):
        roots.append(Path(named))
    roots.append(_cache())
    for candidate in roots:
        for folder in (candidate / dataset.folder, candidate):
            if folder.name.lower() == dataset.folder.lower() and folder.is_dir():
                return folder
    places = ", ".join(str(place) for place in roots)
    raise MissingDatasetError(
        f"{dataset.name} is not on this machine: no folder {dataset.folder} under {places}",
        hint=_by_hand(dataset.folder),
    )


def _by_hand(folder: str) -> str:
    """Return a hint for pictures that are somewhere else; it can be typed in every command that takes --data."""
    return f"--data FOLDER/{folder}, or {_FOLDER_VARIABLE}=FOLDER, FOLDER being where {folder} is"
