"""Fills in what the documentation's pages take from the code, so that it cannot go stale: an mkdocs hook.

A page is Markdown with lines such as `<!-- generated: targets -->`; out comes the same page with the table in their place.
Links to files of the repository outside deploy_docs/, `[centre](../quantize/exact/centre.py)`, work in a checkout as they are;
on the site they lead to a page with that file's text.
"""

from __future__ import annotations

import ast
import importlib
import posixpath
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "deploy_docs"
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # the packages of this checkout, whether they are installed or not

from deploy_docs.site.schema_table import schema_text  # noqa: E402
from deploy_docs.site.target_tables import overview, target_text, without_page  # noqa: E402

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_MARKER = re.compile(r"^<!-- generated: (\w+) ?(\S*) -->$", re.MULTILINE)
_LINK = re.compile(r"\]\(((?:\.\./)+[\w./-]+)\)")


def docstring_text(module: str) -> str:
    """Give a module's docstring as Markdown, and a link to the module below it."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    if not path.is_file():
        path = path.with_suffix("") / "__init__.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    name = path.relative_to(ROOT).as_posix()
    return f"{text}\n\n[`{name}`](../{name})"


def public_text(package: str) -> str:
    """Give a line for mkdocstrings for each name in a package's `__all__`."""
    names = importlib.import_module(package).__all__
    return "\n\n".join(f"::: {package}.{name}" for name in names)


_GENERATED: dict[str, Callable[[str], str]] = {
    "targets": lambda _: overview(),
    "target": target_text,
    "other_targets": lambda _: without_page(),
    "manifest": lambda _: schema_text(DOCS / "manifest.schema.json"),
    "docstring": docstring_text,
    "public": public_text,
}


def filled_in(markdown: str) -> str:
    """Replace each marker by what it stands for; KeyError names one that is unknown."""
    return _MARKER.sub(lambda found: _GENERATED[found[1]](found[2]), markdown)


def _listed(markdown: str, page: str) -> Iterator[tuple[str, str]]:
    """Yield each link to a file of the repository outside deploy_docs, and that file's path from the root."""
    for link in dict.fromkeys(_LINK.findall(markdown)):
        path = posixpath.normpath(posixpath.join("deploy_docs", posixpath.dirname(page), link))
        if not path.startswith(("..", "deploy_docs/")) and (ROOT / path).is_file():
            yield link, path


def _listing(path: str) -> str:
    """Give the page of a file: Markdown as Markdown, its links to deploy_docs kept, anything else as a listing."""
    text = (ROOT / path).read_text(encoding="utf-8").rstrip()
    if path.endswith(".md"):
        up = posixpath.relpath(".", posixpath.dirname(f"source/{path}"))
        body = re.sub(r"\]\((?:\.\./)+deploy_docs/", f"]({up}/", text)
    else:
        language = {".py": "python", ".toml": "toml"}.get(Path(path).suffix, "text")
        body = f"# {path}\n\n``````{language}\n{text}\n``````"
    return f"---\nsearch:\n  exclude: true\ntitle: {path}\n---\n{body}\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file of the repository that a page links to."""
    from mkdocs.structure.files import File

    for file in list(files.documentation_pages()):
        for _, path in _listed(filled_in(file.content_string), file.src_uri):
            if files.get_file_from_path(f"source/{path}.md") is None:
                files.append(File.generated(config, f"source/{path}.md", content=_listing(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Fill in a page's markers, and lead its links to files of the repository to their pages."""
    name = page.file.src_uri
    if name.startswith("source/"):
        return markdown
    text = filled_in(markdown)
    for link, path in _listed(text, name):
        text = text.replace(f"]({link})", f"]({posixpath.relpath(f'source/{path}.md', posixpath.dirname(name) or '.')})")
    return text
