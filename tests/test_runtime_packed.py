"""A bundle in one file: it opens as the folder does, and whatever was done to it is noticed."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import cli
from runtime.bundle import MANIFEST, SCHEMA_VERSION, Bundle, pack_bundle, sha256_bytes, write_bundle
from runtime.describe import describe
from runtime.errors import BundleError, SredgeError
from runtime.pictures.pixels import Picture
from runtime.upscaler import Upscaler

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def packed(exported: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "lesrcnn_x2.sredge"
    path.write_bytes(pack_bundle(exported))
    return path


def _contents(packed: Path) -> Files:
    with zipfile.ZipFile(packed) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _write(path: Path, files: Files, *, kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def _opening_error(path: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        Bundle.open(path)
    assert str(path) in str(caught.value)
    return caught.value


def test_a_packed_bundle_is_the_one_that_was_packed(exported: Bundle, packed: Path, picture: Picture) -> None:
    opened = Bundle.open(packed)
    assert opened.manifest == exported.manifest
    assert all(opened.read(part) == exported.read(part) for part in exported.manifest.parts)
    with Upscaler.open(packed) as from_file, Upscaler.open(exported) as from_folder:
        assert np.array_equal(from_file(picture), from_folder(picture))


def test_packing_twice_gives_the_same_bytes(exported: Bundle, packed: Path) -> None:
    assert pack_bundle(exported) == packed.read_bytes() == pack_bundle(Bundle.open(packed))


def test_pack_writes_the_file_and_info_reads_it(exported: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "it.sredge"
    cli.main(["pack", str(exported.directory), "-o", str(path)])
    assert hashlib.sha256(path.read_bytes()).hexdigest() in capsys.readouterr().out
    cli.main(["info", str(path)])
    assert "lesrcnn x2" in capsys.readouterr().out


def test_a_stage_that_needs_files_says_that_this_is_packed(packed: Path) -> None:
    opened = Bundle.open(packed)
    with pytest.raises(BundleError, match="is packed") as caught:
        opened.path(opened.variant("fp32"))
    assert "zipfile" in caught.value.hint


def _add_a_path_outside(files: Files) -> Files:
    return {**files, "../../etc/passwd": b"root"}


def _drop_the_manifest(files: Files) -> Files:
    return {name: data for name, data in files.items() if name != MANIFEST}


def _drop_the_graph(files: Files) -> Files:
    return {MANIFEST: files[MANIFEST]}


def _change_the_graph(files: Files) -> Files:
    return {name: data if name == MANIFEST else data[:-1] + b"!" for name, data in files.items()}


def _make_newer(files: Files) -> Files:
    body = json.loads(files[MANIFEST])
    return {**files, MANIFEST: json.dumps({**body, "schema_version": SCHEMA_VERSION + 1}).encode()}


def _too_many(files: Files) -> Files:
    return {**files, **{f"file{index}": b"" for index in range(1000)}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_add_a_path_outside, "../../etc/passwd"),
        (_drop_the_manifest, "has no manifest.json"),
        (_drop_the_graph, "model.fp32.onnx is not the file"),
        (_change_the_graph, "model.fp32.onnx is not the file"),
        (_make_newer, "schema version"),
        (_too_many, "too many"),
    ],
)
def test_a_packed_file_with_other_contents_is_refused(
    packed: Path, tmp_path: Path, change: Callable[[Files], Files], expected: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert expected in str(_opening_error(_write(tmp_path / "it.sredge", change(_contents(packed)))))
    assert sorted(tmp_path.rglob("*")) == [*before, tmp_path / "it.sredge"]


def test_a_compressed_archive_is_refused_unread(packed: Path, tmp_path: Path) -> None:
    bomb = {**_contents(packed), "bomb": bytes(1 << 24)}
    assert "compressed" in str(_opening_error(_write(tmp_path / "it.sredge", bomb, kind=zipfile.ZIP_DEFLATED)))


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "it.sredge").write_text("dear diary")
    assert "is not a packed bundle" in str(_opening_error(tmp_path / "it.sredge"))


@given(at=st.integers(0, 1 << 30), value=st.integers(0, 255), cut=st.booleans())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_packed_file_opens_as_it_was_or_is_refused(
    exported: Bundle, packed: Path, tmp_path: Path, at: int, value: int, cut: bool
) -> None:
    data = bytearray(packed.read_bytes())
    at = at % len(data) if at % 2 else len(data) - 1 - at % 2000  # half of it where the directory of the archive is
    if cut:
        del data[at:]
    else:
        data[at] = value
    damaged = tmp_path / "damaged.sredge"
    damaged.write_bytes(data)
    try:
        opened = Bundle.open(damaged)
    except BundleError:
        return
    assert opened.manifest == exported.manifest
    assert all(opened.read(part) == exported.read(part) for part in exported.manifest.parts)


@pytest.fixture(scope="module")
def tiny(exported_small: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of a thousand bytes: nearest-neighbour enlargement, with a short manifest."""
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["N", 3, *sides]) for name, sides in (("input", "HW"), ("output", "YX"))]
    scales = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    enlarge = onnx.helper.make_node("Resize", ["input", "", "scales"], ["output"], mode="nearest")
    graph = onnx.helper.make_graph([enlarge], "tiny", ends[:1], ends[1:], [scales])
    data = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    contract = exported_small.manifest.contract.model_copy(update={"pre_upscale": False})
    fp32 = exported_small.variant("fp32").model_copy(
        update={"sha256": sha256_bytes(data), "passes": (), "tools": {}, "options": {}}
    )
    changed = {"contract": contract, "halo": 1, "layers": (), "variants": (fp32,)}
    manifest = exported_small.manifest.model_copy(update=changed)
    return write_bundle(tmp_path_factory.mktemp("tiny") / "tiny_x2", manifest, files={fp32.file: data})


def _flips(data: bytes) -> Iterator[bytes]:
    """`data` with each byte of it changed, one at a time: in one bit, and in all."""
    for at in range(len(data)):
        for change in (1 << at % 8, 0xFF):
            yield data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]


def _check_each(path: Path, data: bytes, bundle: Path, whole: Bundle, picture: Picture) -> int:
    """Each change of `data`, in the file `path`, is one error, or changes neither the bundle nor a pixel; how many are errors."""
    with Upscaler.open(whole, backend="onnxruntime") as upscaler:
        expected = upscaler(picture)
    refused = 0
    for changed in _flips(data):
        path.write_bytes(changed)
        try:
            opened = Bundle.open(bundle)
            with Upscaler.open(opened, backend="onnxruntime") as upscaler:
                assert np.array_equal(upscaler(picture), expected)
            assert opened.manifest == whole.manifest
        except SredgeError:
            refused += 1
    return refused


def test_no_byte_of_a_packed_bundle_changes_a_pixel(tiny: Bundle, tmp_path: Path) -> None:
    data, path = pack_bundle(tiny), tmp_path / "tiny.sredge"
    assert _check_each(path, data, path, tiny, np.arange(48, dtype=np.uint8).reshape(4, 4, 3)) > 1.5 * len(data)


def test_no_byte_of_a_manifest_changes_a_pixel(tiny: Bundle, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny.directory, tmp_path / "bundle"))
    data = (bundle / MANIFEST).read_bytes()
    assert _check_each(bundle / MANIFEST, data, bundle, tiny, np.arange(48, dtype=np.uint8).reshape(4, 4, 3)) > 1.5 * len(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data(), value=json_values)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_manifest_with_anything_in_any_place_opens_or_is_refused(
    exported: Bundle, tmp_path: Path, data: st.DataObject, value: object
) -> None:
    body = json.loads((exported.directory / MANIFEST).read_text())
    place = body
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not place[key] or not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    body.pop("digest", None)
    if place is body and key == "digest":
        body["digest"] = value
    else:  # signed, as someone with ill intent would
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        body["digest"] = hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / MANIFEST).write_text(json.dumps(body))
    for part in exported.manifest.parts:
        (tmp_path / part.file).write_bytes(exported.read(part))
    try:
        opened = Bundle.open(tmp_path)
    except BundleError:
        return
    assert {part.file for part in opened.manifest.parts} <= {path.name for path in tmp_path.iterdir()}
    assert all(isinstance(line, str) for line in describe(opened))
    # A value that is allowed there, and may yet be no truth about the graph.
    with suppress(SredgeError), Upscaler.open(opened, backend="onnxruntime", memory_bytes=1 << 28) as upscaler:
        assert upscaler(np.zeros((3, 4, 3), np.uint8)).shape[2:] == (3,)
