"""Bundles made to harm: each is one error within seconds, and within little memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from quantize.search.result import read_state
from runtime.backends.engines import find_engine, read_engine
from runtime.bundle import MANIFEST, REPORTS, Bundle, pack_bundle, sha256_bytes
from runtime.errors import BackendError, BundleError, ImageError
from runtime.upscaler import Upscaler
from tests.bundle_processes import open_it

SECONDS = 10
PATIENCE_S = 60
MEMORY_BYTES = 3 << 29  # of addresses; what is imported takes most of it before anything is opened
Hostile = Callable[[Path], Path]
"""Makes the bundle in the folder given hostile, and says what to open."""


def _sign(directory: Path, body: dict[str, Any]) -> None:
    body.pop("digest", None)
    compact = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    (directory / MANIFEST).write_text(json.dumps({**body, "digest": hashlib.sha256(compact).hexdigest()}))


def _body(directory: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
    return body


def _replace(name: str, make: Callable[[Path], object]) -> Hostile:
    def replace(directory: Path) -> Path:
        (path,) = directory.glob(name)
        path.rename(directory.parent / "moved")
        make(path)
        return directory

    return replace


def _link_out(path: Path) -> None:
    path.symlink_to(path.parent.parent / "moved")


def _link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _grow(path: Path) -> None:
    """To more bytes than any part may have, none of them on the disk."""
    shutil.copy(path.parent.parent / "moved", path)
    os.truncate(path, 64 << 30)


def _raw(text: bytes) -> Hostile:
    def write(directory: Path) -> Path:
        (directory / MANIFEST).write_bytes(text)
        return directory

    return write


def _a_million_layers(directory: Path) -> Path:
    body = json.dumps({**_body(directory), "layers": ["HERE"]})
    layer = json.dumps({"name": "conv", "op": "Conv", "macs": 1, "aliases": []})
    (directory / MANIFEST).write_text(body.replace('"HERE"', ",".join([layer] * 1_000_000)))
    return directory


def _many_small_layers(directory: Path) -> Path:
    _sign(directory, {**_body(directory), "layers": [{"name": "", "op": "", "macs": 1}] * 80_000})
    return directory


def _huge_counts(directory: Path) -> Path:
    body = _body(directory)
    body["variants"][0]["passes"][0]["macs"] = 10**4000
    _sign(directory, body)
    return directory


def _packed(directory: Path) -> Path:
    path = directory.parent / "bundle.sredge"
    path.write_bytes(pack_bundle(Bundle.open(directory)))
    return path


def _packed_with_many_entries(directory: Path) -> Path:
    path = directory.parent / "bundle.sredge"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"")
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory_bytes = entry * 1_000_000
    path.write_bytes(directory_bytes + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory_bytes), 0, 0))
    return path


def _packed_and_grown(directory: Path) -> Path:
    path = _packed(directory)
    os.truncate(path, 64 << 30)
    return path


def _just(path: str) -> Hostile:
    return lambda _: Path(path)


def _fifo(directory: Path) -> Path:
    os.mkfifo(directory.parent / "fifo")
    return directory.parent / "fifo"


GRAPH = "model.fp32.onnx"
TABLE = "calibration-*.json"
PARTS = (MANIFEST, GRAPH, TABLE)
HOSTILE: dict[str, Hostile] = {
    **{f"{name} is a FIFO": _replace(name, os.mkfifo) for name in PARTS},
    **{f"{name} is a folder": _replace(name, Path.mkdir) for name in PARTS},
    **{f"{name} is a link out": _replace(name, _link_out) for name in PARTS},
    **{f"{name} is a link to a device": _replace(name, _link_to_zeros) for name in PARTS},
    **{f"{name} is endless": _replace(name, _grow) for name in PARTS},
    "a million layers": _a_million_layers,
    "many small layers": _many_small_layers,
    "counts of 4000 digits": _huge_counts,
    "a list in a list in a list": _raw(b"[" * 4_000_000),
    "an object in an object": _raw(b'{"a":' * 700_000),
    "a number of many digits": _raw(b'{"scale": ' + b"9" * 4_000_000 + b"}"),
    "four million empty lists": _raw(b"[" + b"[]," * 1_300_000 + b"[]]"),
    "NaN": _raw(b'{"scale": NaN}'),
    "a key twice": _raw(b'{"scale": 2, "scale": 3}'),
    "packed with a million entries": _packed_with_many_entries,
    "packed and endless": _packed_and_grown,
    "a device": _just("/dev/zero"),
    "a FIFO": _fifo,
    "a terminal": _just("/dev/tty"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_bundle_is_one_error_within_a_second_and_little_memory(
    bundle_copy: Bundle, processes: ForkServerContext, what: str
) -> None:
    here, there = processes.Pipe()
    opening = processes.Process(target=open_it, args=(HOSTILE[what](bundle_copy.directory), MEMORY_BYTES, there), daemon=True)
    opening.start()
    there.close()
    try:
        assert here.poll(PATIENCE_S), "it hangs"
        errors, seconds, taken_bytes = here.recv()
    finally:
        opening.kill()
    assert [kind for kind, _ in errors] == ["BundleError"]
    assert seconds < 1
    assert taken_bytes < 200 << 20


def test_a_hard_link_is_a_file_as_any_other(bundle_copy: Bundle) -> None:
    fp32 = bundle_copy.path(bundle_copy.variant("fp32"))
    fp32.rename(bundle_copy.directory.parent / "moved")
    os.link(bundle_copy.directory.parent / "moved", fp32)
    assert Bundle.open(bundle_copy.directory) == bundle_copy


def test_a_packed_bundle_may_be_named_by_a_link(bundle_copy: Bundle, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(_packed(bundle_copy.directory))
    assert Bundle.open(tmp_path / "link").manifest == bundle_copy.manifest


def test_engines_that_are_links_or_no_files_are_refused(bundle_copy: Bundle, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    (bundle_copy.directory / "engines").symlink_to(tmp_path / "away")
    with pytest.raises(BackendError, match="is a link"):
        find_engine(bundle_copy.directory / "engines", graph_sha256="0" * 64, precision="fp32")
    os.mkfifo(tmp_path / "fifo.json")
    with pytest.raises(BackendError, match="not a regular file"):
        read_engine(tmp_path / "fifo.json")


def test_a_report_that_is_no_file_is_no_report(bundle_copy: Bundle) -> None:
    (bundle_copy.directory / REPORTS).mkdir()
    os.mkfifo(bundle_copy.directory / REPORTS / "search-cpu.json")
    assert read_state(bundle_copy.directory / REPORTS / "search-cpu.json") is None


def _with_graph(bundle: Bundle, model: onnx.ModelProto) -> Bundle:
    """The bundle with that fp32 graph and no other, its manifest signed, as somebody with ill intent would."""
    data = model.SerializeToString()
    body = _body(bundle.directory)
    (fp32,) = (variant for variant in body["variants"] if variant["file"] == GRAPH)
    (bundle.directory / GRAPH).write_bytes(data)
    _sign(bundle.directory, {**body, "variants": [{**fp32, "sha256": sha256_bytes(data)}], "calibration": None})
    return Bundle.open(bundle.directory)


def _leak(path: Path) -> onnx.ModelProto:
    leak = TensorProto(name="leak", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", path.name), ("offset", "0"), ("length", "4")):
        leak.external_data.add(key=key, value=value)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, "H", "W"]) for name in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Add", ["input", "leak"], ["output"])], "g", ends[:1], ends[1:], [leak])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_beside_the_bundle_is_not_read(
    bundle_copy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, packed: bool
) -> None:
    (tmp_path / "secret").write_bytes(bytes(4))
    monkeypatch.chdir(tmp_path)
    bundle = _with_graph(bundle_copy, _leak(tmp_path / "secret"))
    if packed:
        files = {path.name: path.read_bytes() for path in bundle.directory.iterdir() if path.name in (MANIFEST, GRAPH)}
        with zipfile.ZipFile(tmp_path / "it.sredge", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        bundle = Bundle.open(tmp_path / "it.sredge")
    with pytest.raises(BundleError, match="external data"):
        Upscaler.open(bundle, backend=backend)


@pytest.mark.parametrize(
    "change", [{"static_shape": [1 << 16, 1 << 16]}, {"static_shape": [1 << 16, 1 << 16], "pre_upscale": True}]
)
def test_a_shape_that_does_not_fit_into_memory_is_an_error_before_it_is_allocated(
    bundle_copy: Bundle, change: dict[str, object]
) -> None:
    body = _body(bundle_copy.directory)
    _sign(bundle_copy.directory, {**body, "contract": {**body["contract"], **change}})
    began = time.process_time()
    with (
        Upscaler.open(bundle_copy.directory, memory_bytes=512 << 20) as upscaler,
        pytest.raises(ImageError, match=r"65536×65536.*512 MiB are allowed") as caught,
    ):
        upscaler(np.zeros((40, 56, 3), np.uint8))
    assert "--memory" in caught.value.hint
    assert time.process_time() - began < SECONDS


def test_a_manifest_without_layers_does_not_make_memory_free(bundle_copy: Bundle) -> None:
    _sign(bundle_copy.directory, {**_body(bundle_copy.directory), "layers": []})
    with Upscaler.open(bundle_copy.directory, memory_bytes=8 << 20) as upscaler:
        assert upscaler.plan(np.zeros((2000, 2000, 3), np.uint8)).count > 1
