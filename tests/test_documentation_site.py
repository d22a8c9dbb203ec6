"""The documentation as a site: it builds without a warning, loads nothing from another host, and searches offline."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import runtime
from runtime.targets import TARGETS, Target
from tests.commands import ROOT

_MISSING = [name for name in ("mkdocs", "material", "mkdocstrings_handlers") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {', '.join(_MISSING)}; pip install 'sredge[docs]'")

_LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "link": "href"}
_ELSEWHERE = re.compile(r"^(?:https?:)?//")
_IN_CSS = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""")


class _Loads(HTMLParser):
    """Collects what a page loads without being asked."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.classes |= set((given.get("class") or "").split())
        self.found += _IN_CSS.findall(given.get("style") or "")
        if tag in _LOADS and given.get("rel") != "canonical":
            self.found.append(given.get(_LOADS[tag]) or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly; anything mkdocs warns of fails."""
    folder = tmp_path_factory.mktemp("site")
    typed = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        str(ROOT / ".mkdocs.yml"),
        "--site-dir",
        str(folder),
    ]
    built = subprocess.run(typed, capture_output=True, text=True, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def _text(page: Path) -> str:
    return re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loads = _Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert loads.found
        assert not [each for each in loads.found if _ELSEWHERE.match(each)], page
        # The theme's script asks other hosts for drawings and for a repository's stars, where a page has either.
        assert "mermaid" not in loads.classes, page
        assert "md-source" not in loads.classes, page
    styles = [style.read_text(encoding="utf-8") for style in site.rglob("*.css")]
    assert not [found for style in styles for found in _IN_CSS.findall(style)]


def test_search_needs_no_server_and_finds_every_kind_of_page(site: Path) -> None:
    """The index is in a script too, which a page may read from the file system."""
    text = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("var __index = "))
    found = {document["location"].partition("#")[0] for document in index["docs"]}
    assert {"quick-start.html", "targets/npu.html", "reference.html", "manifest.html", "design.html"} <= found
    assert not [page for page in found if page.startswith("source/")]
    assert "iframe-worker.js" in (site / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_site_shows_each_targets_rows(site: Path, target: Target) -> None:
    pages = [page for page in site.rglob("*.html") if f"<code>{target.name}</code></th>" in page.read_text(encoding="utf-8")]
    assert len(pages) == 1
    shown = _text(pages[0])
    assert not [row.operator for row in target.operators if row.operator not in shown]


def test_the_reference_has_every_public_name(site: Path) -> None:
    text = (site / "reference.html").read_text(encoding="utf-8")
    assert not [name for name in runtime.__all__ if f'id="runtime.{name}"' not in text]


def test_the_manifests_page_has_every_field_of_the_schema(site: Path) -> None:
    schema = json.loads((ROOT / "deploy_docs" / "manifest.schema.json").read_text(encoding="utf-8"))
    shown = (site / "manifest.html").read_text(encoding="utf-8")
    fields = {field for one in [schema, *schema["$defs"].values()] for field in one["properties"]}
    assert not [field for field in fields if f"<code>{field}</code>" not in shown]


def test_no_page_has_a_marker_that_nothing_was_put_in_for(site: Path) -> None:
    assert not [page for page in site.rglob("*.html") if "generated:" in page.read_text(encoding="utf-8")]
