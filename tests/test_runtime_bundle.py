"""The bundle on disk: what is written comes back, and what was damaged is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from runtime.bundle import BUILD, MANIFEST, SCHEMA_VERSION, Bundle, Contract, Manifest, resolve_bundle, write_bundle
from runtime.errors import BundleError

Edit = Callable[[dict[str, Any]], None]


def _files(bundle: Bundle) -> dict[str, bytes]:
    return {part.file: bundle.path(part).read_bytes() for part in bundle.manifest.parts}


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def _edit_manifest(directory: Path, edit: Edit, *, signed: bool) -> None:
    """Edits the manifest's JSON; `signed` also mends its digest, as someone with ill intent would."""
    path = directory / MANIFEST
    body = json.loads(path.read_text())
    edit(body)
    if signed:
        del body["digest"]
        compact = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        body["digest"] = hashlib.sha256(compact).hexdigest()
    path.write_text(json.dumps(body))


def _opening_error(directory: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        Bundle.open(directory)
    return caught.value


def test_a_written_bundle_opens_as_it_was_written(quantized: Bundle, tmp_path: Path) -> None:
    written = write_bundle(tmp_path / "copy", quantized.manifest, files=_files(quantized))
    opened = Bundle.open(tmp_path / "copy")
    assert opened == written
    assert opened.manifest == quantized.manifest
    assert _files(opened) == _files(quantized)


def test_the_same_inputs_give_a_manifest_of_the_same_bytes(quantized: Bundle, tmp_path: Path) -> None:
    copy = write_bundle(tmp_path / "elsewhere" / "under another name", quantized.manifest, files=_files(quantized))
    assert (copy.directory / MANIFEST).read_bytes() == (quantized.directory / MANIFEST).read_bytes()


def test_a_manifest_tells_nothing_of_the_machine_it_was_written_on(quantized: Bundle) -> None:
    text = (quantized.directory / MANIFEST).read_text()
    assert str(quantized.directory.parent) not in text
    assert str(Path.home()) + "/" not in text
    assert str(Path(__file__).parents[1]) not in text


def test_a_new_manifest_takes_the_parts_it_does_not_name_away(bundle_copy: Bundle) -> None:
    fp32 = bundle_copy.variant("fp32")
    manifest = bundle_copy.manifest.model_copy(update={"variants": (fp32,), "calibration": None})
    write_bundle(bundle_copy.directory, manifest, files={})
    assert {path.name for path in bundle_copy.directory.iterdir()} == {MANIFEST, fp32.file}


def test_a_flipped_byte_in_any_part_is_noticed(bundle_copy: Bundle) -> None:
    for part in bundle_copy.manifest.parts:
        path = bundle_copy.path(part)
        for offset in (0, path.stat().st_size // 2, path.stat().st_size - 1):
            _flip(path, offset)
            error = _opening_error(bundle_copy.directory)
            assert part.file in str(error), f"byte {offset} of {part.file}: {error}"
            assert "sha256 differs" in str(error), f"byte {offset} of {part.file}: {error}"
            _flip(path, offset)
    Bundle.open(bundle_copy.directory)


def test_a_flipped_byte_anywhere_in_the_manifest_is_noticed(bundle_copy: Bundle) -> None:
    path = bundle_copy.directory / MANIFEST
    for offset in range(0, path.stat().st_size, 37):  # 37: every kind of character comes up, in a fraction of the time
        _flip(path, offset)
        with pytest.raises(BundleError):
            pytest.fail(f"byte {offset}: opened as {Bundle.open(bundle_copy.directory).manifest}")
        _flip(path, offset)


def test_a_missing_part_is_named(bundle_copy: Bundle) -> None:
    for part in bundle_copy.manifest.parts:
        away = bundle_copy.path(part).rename(bundle_copy.directory / "away")
        error = _opening_error(bundle_copy.directory)
        assert f"{part.file} cannot be read: No such file" in str(error)
        assert error.hint
        away.rename(bundle_copy.path(part))


def test_a_folder_without_a_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    error = _opening_error(tmp_path)
    assert "it has no manifest.json" in str(error)
    assert "python -m export" in error.hint


def test_a_bundle_that_is_nowhere_is_said_to_be_nowhere(tmp_path: Path) -> None:
    assert "there is no such folder" in str(_opening_error(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "text",
    [b"", b"not json", b"[1, 2]", b"null", b'{"model": ', b"\xff\xfe\x00", b"[" * 200_000, b'{"scale": ' + b"9" * 5000],
    ids=["empty", "text", "a list", "null", "cut short", "not utf-8", "nested too deep", "an enormous number"],
)
def test_a_manifest_that_is_no_json_object_is_refused(bundle_copy: Bundle, text: bytes) -> None:
    (bundle_copy.directory / MANIFEST).write_bytes(text)
    error = _opening_error(bundle_copy.directory)
    assert f"{MANIFEST} is not a manifest" in str(error)
    assert "export again" in error.hint


def _set_halo(body: dict[str, Any]) -> None:
    body["halo"] += 1


@pytest.mark.parametrize("scale", [1, 0.5, float("inf"), float("nan")])
def test_a_scale_that_enlarges_nothing_is_no_manifest(exported: Bundle, scale: float) -> None:
    with pytest.raises(ValidationError, match="scale"):
        Manifest.model_validate({**exported.manifest.model_dump(), "scale": scale})


@pytest.mark.parametrize("scale", [1.1, 1.5, 2, 3.7])
@pytest.mark.parametrize("size", [(15, 20), (1, 41), (128, 128)], ids=str)
def test_the_picture_that_a_fixed_graph_takes_is_the_one_it_was_fixed_for(size: tuple[int, int], scale: float) -> None:
    fixed = Contract(pre_upscale=True, static_shape=Contract(pre_upscale=True).input_size(size, scale=scale))
    assert fixed.static_picture_size(scale=scale) == size
    assert Contract(static_shape=size).static_picture_size(scale=scale) == size


def _set_scale(body: dict[str, Any]) -> None:
    body["scale"] = 3.0


def _set_macs(body: dict[str, Any]) -> None:
    body["layers"][0]["macs"] *= 2


def _claim_more_int8(body: dict[str, Any]) -> None:
    body["variants"][-1]["psnr_vs_fp32_db"] = 99.0


def _drop_digest(body: dict[str, Any]) -> None:
    del body["digest"]


@pytest.mark.parametrize("edit", [_set_halo, _set_scale, _set_macs, _claim_more_int8, _drop_digest])
def test_a_manifest_edited_by_hand_is_refused(bundle_copy: Bundle, edit: Edit) -> None:
    _edit_manifest(bundle_copy.directory, edit, signed=False)
    assert "was changed after it was written" in str(_opening_error(bundle_copy.directory))


def _make_newer(body: dict[str, Any]) -> None:
    body["schema_version"] = SCHEMA_VERSION + 1


def _make_newer_with_a_new_field(body: dict[str, Any]) -> None:
    _make_newer(body)
    body["field_of_the_future"] = 1


@pytest.mark.parametrize("edit", [_make_newer, _make_newer_with_a_new_field])
def test_a_newer_schema_asks_for_a_newer_sredge(bundle_copy: Bundle, edit: Edit) -> None:
    _edit_manifest(bundle_copy.directory, edit, signed=True)
    error = _opening_error(bundle_copy.directory)
    assert f"schema version {SCHEMA_VERSION + 1}" in str(error)
    assert "upgrade" in error.hint


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b", "..", ".hidden", "a\\b", "", "model.onnx\n", "x" * 200])
def test_a_part_cannot_be_named_outside_the_bundle(bundle_copy: Bundle, name: str) -> None:
    def name_it(body: dict[str, Any]) -> None:
        body["variants"][0]["file"] = name

    _edit_manifest(bundle_copy.directory, name_it, signed=True)
    assert "variants.0.file" in str(_opening_error(bundle_copy.directory))


def _forget_model(body: dict[str, Any]) -> None:
    del body["model"]


def _add_field(body: dict[str, Any]) -> None:
    body["colour_of_the_sky"] = "blue"


def _invent_precision(body: dict[str, Any]) -> None:
    body["variants"][0]["precision"] = "int3"


@pytest.mark.parametrize(
    ("edit", "where"), [(_forget_model, "model"), (_add_field, "colour_of_the_sky"), (_invent_precision, "precision")]
)
def test_a_manifest_that_breaks_the_schema_names_the_field(bundle_copy: Bundle, edit: Edit, where: str) -> None:
    _edit_manifest(bundle_copy.directory, edit, signed=True)
    error = _opening_error(bundle_copy.directory)
    assert "is not a valid manifest" in str(error)
    assert where in str(error)


def test_a_bundle_cannot_be_written_where_a_file_is(exported: Bundle, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(BundleError, match="cannot write the bundle") as caught:
        write_bundle(tmp_path / "taken", exported.manifest, files=_files(exported))
    assert "folder" in caught.value.hint
    assert (tmp_path / "taken").read_text() == "mine"


def _build_holding(root: Path, bundle: Bundle, *names: str) -> None:
    for name in names:
        shutil.copytree(bundle.directory, root / BUILD / name)


def test_a_bundle_that_is_named_is_the_one(exported: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _build_holding(tmp_path, exported, "one", "two")
    monkeypatch.chdir(tmp_path)
    assert resolve_bundle(Path("elsewhere")) == Path("elsewhere")


def test_the_only_bundle_under_build_need_not_be_named(exported: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _build_holding(tmp_path, exported, "only")
    (tmp_path / BUILD / "not a bundle").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_bundle(None) == BUILD / "only"


def test_without_a_bundle_under_build_the_hint_is_to_export_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="no bundle under build/") as caught:
        resolve_bundle(None)
    assert caught.value.hint.startswith("python -m export")


def test_several_bundles_under_build_are_listed(exported: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _build_holding(tmp_path, exported, "first", "second")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"build/first, build/second"):
        resolve_bundle(None)


def test_a_precision_the_bundle_lacks_names_those_it_has(exported: Bundle) -> None:
    with pytest.raises(BundleError, match="has no fp16 graph; it has: fp32"):
        exported.variant("fp16")


def test_a_target_the_bundle_was_not_quantized_for_is_named(quantized: Bundle) -> None:
    with pytest.raises(BundleError, match="has no int8 graph for target 'abacus'"):
        quantized.variant("int8", target="abacus")


def test_the_int8_share_is_weighed_by_multiply_accumulates(quantized: Bundle) -> None:
    manifest = quantized.manifest
    largest = max(manifest.layers, key=lambda layer: layer.macs)
    variant = quantized.variant("int8").model_copy(update={"int8_layers": (largest.name,), "merged_layers": ()})
    assert manifest.int8_mac_share(variant) == pytest.approx(largest.macs / sum(layer.macs for layer in manifest.layers))


def test_a_write_leaves_what_is_not_the_bundles_own(quantized: Bundle, tmp_path: Path) -> None:
    theirs = ["model.v1.onnx", "notes.next", "calibration.json", "photograph.png"]
    for name in theirs:
        (tmp_path / name).write_text("mine")
    fp32 = quantized.variant("fp32")
    manifest = quantized.manifest.model_copy(update={"variants": (fp32,), "calibration": None})
    write_bundle(tmp_path, manifest, files={fp32.file: quantized.read(fp32)})
    assert [(tmp_path / name).read_text() for name in theirs] == ["mine"] * len(theirs)


def test_a_part_that_changed_after_opening_is_not_read(bundle_copy: Bundle) -> None:
    fp32 = bundle_copy.variant("fp32")
    bundle_copy.path(fp32).write_bytes(b"another graph")
    with pytest.raises(BundleError, match="changed since"):
        bundle_copy.read(fp32)
