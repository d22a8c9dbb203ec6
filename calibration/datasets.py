"""Which data sets there are, and where on this machine.

A name (`div2k`, `set5`, …) is looked for as a folder under --data, then under SREDGE_DATA, then in the download cache; a folder
can be named outright.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from calibration.layouts import Use, read_folder
from calibration.pairs import ImageSet, Pair
from runtime.errors import DatasetError, UnknownNameError

_FOLDER_VARIABLE = "SREDGE_DATA"
OnBytes = Callable[[int, int], None]
"""Called with how many bytes have come, and of how many."""


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


def find_images(choice: str, *, scale: float, use: Use, root: Path | None = None) -> ImageSet:
    """The pictures that `choice` (a known name, or a folder) stands for, `scale` being the factor between low and high.

    A folder of plain pictures is what a device would feed where `use` is calibration, and ground truth where it is evaluation.
    Of data sets with splits, calibration takes the training part and evaluation the validation or test part, where it is there.

    Raises:
        MissingDatasetError: a known data set that is in none of the places looked at; lists them.
        UnknownNameError: neither a known name nor a folder.
        DatasetError: a folder without pictures.
    """
    if root is not None and not root.is_dir():
        raise DatasetError(f"--data {root}: there is no such folder")
    if choice.lower() == SAMPLES:
        return _samples()
    for dataset in DATASETS:
        if dataset.name == choice.lower():
            folder = _locate(dataset, root)
            return read_folder(folder, name=dataset.name, scale=scale, use=use)
    folder = Path(choice)
    if folder.is_dir():
        known = {dataset.folder.lower(): dataset.name for dataset in DATASETS}
        name = folder.resolve().name
        return read_folder(folder, name=known.get(name.lower(), name), scale=scale, use=use)
    if folder.exists() or "/" in choice or os.sep in choice:
        reason = "it is a file" if folder.exists() else "there is no such folder"
        raise DatasetError(f"{choice} is not a folder of pictures: {reason}")
    raise UnknownNameError("data set", choice, valid=dataset_names(), hint="or give the path of a folder of pictures")


def can_download(choice: str, *, scale: float) -> bool:
    """Whether `download` knows where to get that data set."""
    return any(dataset.name == choice.lower() and {0, scale} & dataset.archives.keys() for dataset in DATASETS)


def download(choice: str, *, scale: float, on_bytes: OnBytes) -> None:
    """Fetches what calibration at `scale` needs of a data set into the cache; sha256 checked before it is unpacked.

    Raises:
        DatasetError: it has no known download, or it could not be had.
    """
    import pooch  # only who asks for a download needs it

    dataset = next((dataset for dataset in DATASETS if dataset.name == choice.lower()), None)
    if dataset is None or not can_download(choice, scale=scale):
        raise DatasetError(f"there is no known download of {choice!r}", hint="get it yourself and name its folder with --data")
    url, sha256 = dataset.archives[scale if scale in dataset.archives else 0]
    downloader = pooch.HTTPDownloader(progressbar=_ByteCounter(on_bytes))
    try:
        file = Path(pooch.retrieve(url, f"sha256:{sha256}", path=_cache() / "archives", downloader=downloader))
        with zipfile.ZipFile(file) as archive_file:
            _unpack(archive_file, _cache() / dataset.folder)
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"{url} cannot be downloaded: {error}", hint="get it by hand and name its folder with --data") from error


def _unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    """Unpacks beside `folder` and moves whole what was unpacked into it; zipfile drops absolute and parent paths."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unpacked:
        archive.extractall(unpacked)
        folder.mkdir(exist_ok=True)
        for entry in Path(unpacked).iterdir():
            if (folder / entry.name).is_dir():
                shutil.rmtree(folder / entry.name)
            entry.replace(folder / entry.name)


class _ByteCounter:
    """What pooch asks of a progress bar: https://www.fatiando.org/pooch/latest/progressbars.html."""

    def __init__(self, on_bytes: OnBytes) -> None:
        self.total = 0
        self._on_bytes = on_bytes
        self._done = 0

    def update(self, count: int) -> None:
        self._done += count
        self._on_bytes(self._done, self.total)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        """Nothing to close."""


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
        hint=f"name the folder that holds {dataset.folder} with --data or {_FOLDER_VARIABLE}",
    )
