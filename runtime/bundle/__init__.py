"""The bundle: a directory with a manifest and the graphs it describes, or one file that holds the same.

Everyone else takes what concerns it from here.
"""

from .bundle import Bundle, pack_bundle, resolve_bundle
from .digests import sha256_bytes, sha256_file, source_digest, tool_versions
from .graph_bytes import check_graph_bytes
from .manifest import (
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
    find_io,
)
from .manifest_file import manifest_schema
from .write import check_writable, extend_bundle, update_bundle, write_bundle

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
    "check_graph_bytes",
    "check_writable",
    "extend_bundle",
    "find_io",
    "manifest_schema",
    "pack_bundle",
    "resolve_bundle",
    "sha256_bytes",
    "sha256_file",
    "source_digest",
    "tool_versions",
    "update_bundle",
    "write_bundle",
]
