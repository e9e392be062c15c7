"""A hook of mkdocs (mkdocs.yml): the site also shows documents that lie outside docs/, and its links work on GitHub.

The documents in `PAGES` stay where readers of the repository look for them. Every link is relative, so that it works
where the file lies. On the site, a link to another page leads to that page. A link to any other file of the repository
leads to the file in the repository's web pages.
"""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {  # page of the site: file of the repository
    "explanation/architecture.md": "ARCHITECTURE.md",
    "project/changelog.md": "CHANGELOG.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/security.md": "SECURITY.md",
    "reference/chart.md": "charts/llamaserver-operator/README.md",
}
_PLACES = {place: page for page, place in PAGES.items()}
_LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#:]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents that lie elsewhere."""
    for page, place in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Rewrite the links of one page."""
    return rewritten(markdown, page.file.src_uri, f"{config.repo_url}/blob/main")


def rewritten(markdown: str, page: str, repository: str) -> str:
    """The text with its links as the site needs them; `page` is its path below docs/."""
    place = PAGES.get(page, f"docs/{page}")

    def target(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(place), found["target"]))
        shown = _PLACES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if shown:
            return posixpath.relpath(shown, posixpath.dirname(page) or ".")
        if not os.path.lexists(ROOT / path):
            return found["target"]  # mkdocs reports it
        return f"{repository}/{path}"

    return _LINK.sub(target, markdown)
