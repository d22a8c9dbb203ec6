"""Read and write the manifest as a JSON file with a digest of itself: an edit by hand or a flipped byte is noticed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from pydantic import ValidationError

from ..errors import BundleError
from ..files.regular import read_regular
from .digests import sha256_bytes
from .manifest import MANIFEST, SCHEMA_VERSION, Manifest
from .older import upgraded

_DIGEST = "digest"
MOST_MANIFEST_BYTES = 4 << 20
"""That of the largest network here, with all its graphs, has a hundredth of it."""


def manifest_schema() -> dict[str, object]:
    """JSON Schema of manifest.json: that of `Manifest`, and the digest over everything else in the file."""
    schema: dict[str, object] = Manifest.model_json_schema()
    properties, required = schema["properties"], schema.get("required", [])
    assert isinstance(properties, dict)
    assert isinstance(required, list)
    digest = {"type": "string", "pattern": "^[0-9a-f]{64}$", "title": "sha256 of the other fields as compact JSON, keys sorted"}
    return {**schema, "properties": {**properties, _DIGEST: digest}, "required": [*required, _DIGEST]}


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the file's content.

    Raises:
        BundleError: it is larger than a manifest may be.
    """
    body = manifest.model_dump(mode="json")
    text = json.dumps({**body, _DIGEST: _digest(body)}, indent=1).encode() + b"\n"
    if len(text) > MOST_MANIFEST_BYTES:
        raise BundleError(f"the manifest of {manifest.model} has {len(text)} bytes, expected {MOST_MANIFEST_BYTES} at most")
    return text


def _digest(body: object) -> str:
    return sha256_bytes(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of the bundle in `directory`.

    Raises:
        BundleError: there is none, or as `parse_manifest` does.
    """
    path = directory / MANIFEST
    try:
        text = read_regular(path, most_bytes=MOST_MANIFEST_BYTES)
    except OSError as error:
        if path.is_symlink() or path.exists():
            reason = f"its {MANIFEST} cannot be read: {error.strerror or error}"
        else:
            reason = f"it has no {MANIFEST}" if directory.is_dir() else "there is no such folder"
        raise BundleError(f"{directory} is not a bundle: {reason}", hint="python -m export lesrcnn --scale 2") from error
    return parse_manifest(text, path, again=f"make it anew: rm -r {shlex.quote(str(directory))} and run the export again")


def parse_manifest(text: bytes, path: Path, *, again: str) -> Manifest:
    """Return the manifest that `text`, read from `path`, is of; `again` is the hint on how to make it anew.

    Raises:
        BundleError: no manifest, an edited one, or one of a newer schema.
    """
    try:
        if len(text) > MOST_MANIFEST_BYTES:
            raise ValueError(f"it has {len(text)} bytes, expected {MOST_MANIFEST_BYTES} at most")
        body = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
        if not isinstance(body, dict):
            raise TypeError("a manifest is a JSON object")
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleError(f"{path} is not a manifest: {error}", hint=again) from error
    version = body.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version}; this sredge reads up to {SCHEMA_VERSION}",
            hint="pip install --upgrade sredge",
        )
    digest = body.pop(_DIGEST, None)
    try:
        manifest = Manifest.model_validate(upgraded(body))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise BundleError(f"{path} is not a valid manifest: {where}: {first['msg']}", hint=again) from error
    if digest != _digest(body):
        raise BundleError(f"{path} was changed after it was written (its digest does not match)", hint=again)
    return manifest


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has a key twice in one object")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
