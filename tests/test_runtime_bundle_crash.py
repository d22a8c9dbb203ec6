"""A writer that is killed, at any moment, leaves the whole old bundle or the whole new one."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from calibration.shipped_tables import SHIPPED_TABLES
from runtime.bundle import MANIFEST, Bundle, Manifest, Part, sha256_bytes, staging, write_bundle
from runtime.errors import BundleError

ROOT = Path(__file__).resolve().parents[1]


class Killed(BaseException):
    """What stands for SIGKILL inside the process: nothing in the code under test may catch it."""


@dataclass(frozen=True)
class Content:
    """What one write puts into a bundle; the parts are a few bytes, so that hundreds of writes take a moment."""

    manifest: Manifest
    files: Mapping[str, bytes]

    def write(self, directory: Path) -> None:
        write_bundle(directory, self.manifest, files=self.files)


def _content(template: Manifest, data: bytes, *, without: tuple[str, ...] = ()) -> Content:
    """`template` with `data` for the bytes of each part, less the variants and the table named in `without`."""
    files = {part.file: data + part.file.encode() for part in template.parts if part.file not in without}
    parts = {file: Part(file=file, sha256=sha256_bytes(written)) for file, written in files.items()}
    variants = tuple(
        variant.model_copy(
            update={
                "sha256": parts[variant.file].sha256,
                "calibration": variant.calibration and parts[variant.calibration.file],
            }
        )
        for variant in template.variants
        if variant.file in files
    )
    return Content(template.model_copy(update={"variants": variants}), files)


@pytest.fixture(scope="module")
def contents(quantized: Bundle) -> dict[str, Content]:
    template = quantized.manifest
    made_by_quantize = tuple(part.file for part in template.parts if part.file != "model.fp32.onnx")
    return {
        "quantized": _content(template, b"first"),
        "quantized again": _content(template, b"second"),
        "exported": _content(template, b"first", without=made_by_quantize),
        "exported again": _content(template, b"second", without=made_by_quantize),
    }


def _before_each_step(patch: pytest.MonkeyPatch, act: Callable[[], None], *, halve: bool) -> None:
    """Calls `act` before each change that a writer makes to the disk; where `halve`, in the midst of one that writes data."""
    write, replace, unlink = staging.write_synced, Path.replace, Path.unlink

    def acting_write(path: Path, data: bytes) -> None:
        if halve:
            path.write_bytes(data[: len(data) // 2])
        act()
        write(path, data)

    def acting_replace(path: Path, target: Path) -> Path:
        act()
        return replace(path, target)

    def acting_unlink(path: Path, missing_ok: bool = False) -> None:
        act()
        unlink(path, missing_ok=missing_ok)

    patch.setattr("runtime.bundle.write.write_synced", acting_write)
    patch.setattr(Path, "replace", acting_replace)
    patch.setattr(Path, "unlink", acting_unlink)


def _is_killed(content: Content, directory: Path, *, step: int, halve: bool) -> bool:
    """Writes `content`, killed before step number `step`; whether it came to that."""
    steps = itertools.count()

    def kill() -> None:
        if next(steps) == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        _before_each_step(patch, kill, halve=halve)
        try:
            content.write(directory)
        except Killed:
            return True
    return False


def _cut_off(before: Content, after: Content, folder: Path, *, halve: bool) -> Iterator[tuple[int, Path]]:
    """For each step that writing `after` over `before` takes: its number, and the bundle as a kill before it leaves it."""
    for step in itertools.count():
        directory = folder / str(step)
        before.write(directory)
        killed = _is_killed(after, directory, step=step, halve=halve)
        yield step, directory
        if not killed:
            return


TRANSITIONS = (
    ("exported", "quantized"),
    ("quantized", "quantized again"),
    ("quantized", "exported again"),
    ("quantized", "quantized"),
)
halves = pytest.mark.parametrize("halve", [False, True], ids=["between writes", "within a write"])


@halves
@pytest.mark.parametrize(("before", "after"), TRANSITIONS)
def test_a_write_killed_at_any_step_leaves_the_old_or_the_new_bundle(
    contents: dict[str, Content], before: str, after: str, halve: bool, tmp_path: Path
) -> None:
    old, new = contents[before], contents[after]
    found = [Bundle.open(directory).manifest for _, directory in _cut_off(old, new, tmp_path, halve=halve)]
    switch = found.index(new.manifest)
    assert found == [old.manifest] * switch + [new.manifest] * (len(found) - switch)
    assert len(found) > 2 * len(new.files), "it was killed at fewer steps than the write has"


def test_a_first_write_killed_before_it_took_effect_leaves_no_bundle(contents: dict[str, Content], tmp_path: Path) -> None:
    assert _is_killed(contents["quantized"], tmp_path / "new", step=0, halve=True)
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(tmp_path / "new")


@pytest.mark.parametrize(("before", "after"), TRANSITIONS)
def test_a_write_after_a_killed_one_is_whole(contents: dict[str, Content], before: str, after: str, tmp_path: Path) -> None:
    for step, directory in _cut_off(contents[before], contents[after], tmp_path, halve=True):
        contents["exported again"].write(directory)
        assert Bundle.open(directory).manifest == contents["exported again"].manifest, f"first write killed at {step}"
        assert not list(directory.glob("*.next")), f"first write killed at {step}"


def test_two_writes_killed_one_after_the_other_leave_a_whole_bundle(contents: dict[str, Content], tmp_path: Path) -> None:
    first, second, third = (contents[name] for name in ("quantized", "quantized again", "exported"))
    broken = []
    for step in itertools.count():
        for again in itertools.count():
            directory = tmp_path / f"{step}-{again}"
            first.write(directory)
            killed = _is_killed(second, directory, step=step, halve=False)
            killed_again = _is_killed(third, directory, step=again, halve=True)
            try:
                Bundle.open(directory)
            except BundleError as error:
                broken.append(f"killed at {step}, then at {again}: {error}")
            if not killed_again:
                break
        if not killed:
            break
    assert not broken


@pytest.mark.parametrize(("before", "after"), TRANSITIONS)
def test_a_reader_at_any_step_of_a_write_does_not_disturb_it(
    contents: dict[str, Content], before: str, after: str, tmp_path: Path
) -> None:
    old, new = contents[before], contents[after]
    old.write(tmp_path)
    read: list[Manifest] = []
    reading = False

    def open_it() -> None:
        nonlocal reading
        if not reading:  # opening may itself finish a rename
            reading = True
            read.append(Bundle.open(tmp_path).manifest)
            reading = False

    with pytest.MonkeyPatch.context() as patch:
        _before_each_step(patch, open_it, halve=False)
        new.write(tmp_path)
    assert Bundle.open(tmp_path).manifest == new.manifest
    assert set(map(repr, read)) <= {repr(old.manifest), repr(new.manifest)}


Moment = Callable[[Path, int], bool]


def _graph_is_staged(directory: Path, manifest_inode: int) -> bool:
    return any(directory.glob("model.*.onnx.next")) or _manifest_is_new(directory, manifest_inode)


def _manifest_is_new(directory: Path, manifest_inode: int) -> bool:
    return (directory / MANIFEST).stat().st_ino != manifest_inode


COMMANDS = {
    "export": ("-m", "export", "espcn", "--scale", "3", "--opset", "17", "--force", "--out"),
    "quantize": ("-m", "quantize", "--calib", str(SHIPPED_TABLES / "lesrcnn_x2.json"), "--method", "minmax", "--force"),
}

# What a manifest says of its variants, as (opset, method), once the command is through.
NEW: dict[str, dict[str, Any]] = {
    "export": {"fp32": (17, None)},
    "quantize": {"fp32": (18, None), "fp16": (18, None), "bf16": (22, None), "int8": (18, "minmax")},
}


@pytest.mark.parametrize("moment", [_graph_is_staged, _manifest_is_new])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_stage_killed_for_real_leaves_a_bundle_that_opens(bundle_copy: Bundle, command: str, moment: Moment) -> None:
    directory = bundle_copy.directory
    inode = (directory / MANIFEST).stat().st_ino
    with subprocess.Popen(
        [sys.executable, *COMMANDS[command], str(directory)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 60
        while not moment(directory, inode) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.0005)  # a write takes several milliseconds, its fsyncs do
        os.kill(process.pid, signal.SIGKILL)
        _, complaint = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"it ended before it was killed: {complaint.decode()}"
    found = Bundle.open(directory).manifest
    assert _describes(found) in (_describes(bundle_copy.manifest), NEW[command])


def _describes(manifest: Manifest) -> dict[str, Any]:
    return {variant.precision: (variant.opset, variant.options.get("method")) for variant in manifest.variants}
