"""The bundle: a directory with a manifest and the graphs it describes, or one file that holds the same.

Everyone else takes what concerns it from here.
"""

from runtime.bundle.bundle import Bundle, pack_bundle, resolve_bundle
from runtime.bundle.digests import sha256_bytes, sha256_file, source_digest, tool_versions
from runtime.bundle.manifest import (
    BUILD,
    ENGINES,
    IOS,
    MANIFEST,
    REPORTS,
    SCHEMA_VERSION,
    AddedMacs,
    Checkpoint,
    Colour,
    Contract,
    Io,
    Layer,
    Manifest,
    Noun,
    Option,
    Parity,
    Part,
    PassRecord,
    Sha256,
    Side,
    Variant,
)
from runtime.bundle.manifest_file import manifest_schema
from runtime.bundle.write import write_bundle

__all__ = [
    "BUILD",
    "ENGINES",
    "IOS",
    "MANIFEST",
    "REPORTS",
    "SCHEMA_VERSION",
    "AddedMacs",
    "Bundle",
    "Checkpoint",
    "Colour",
    "Contract",
    "Io",
    "Layer",
    "Manifest",
    "Noun",
    "Option",
    "Parity",
    "Part",
    "PassRecord",
    "Sha256",
    "Side",
    "Variant",
    "manifest_schema",
    "pack_bundle",
    "resolve_bundle",
    "sha256_bytes",
    "sha256_file",
    "source_digest",
    "tool_versions",
    "write_bundle",
]
