"""Pages of the documentation site that are made when it is built: a hook of MkDocs, named in mkdocs.yml.

README.md and its kind are read where they lie; methods come from recipes and docstrings, the command line
from typer, the reference from docstrings. Links are written as git hosts want them, relative to the file in
the repository; links to modules lead to their page in the reference.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from markdown.util import AtomicString
from medssl.core import recipes
from medssl.core.methods import ALL
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
AT_THE_ROOT = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""File in the repository: its page."""
SOURCES = ("training/medssl", "napari_medssl")
NOT_IN_REFERENCE = {"__main__", "cli"}
"""The command line has a page of its own."""
METHOD_MODULES = {
    name: target.partition(":")[0] for name, target in ALL.items() if target.startswith("medssl.")
}
"""Our own methods: name, module. The methods' pages describe these modules, the reference leaves them out."""


class ListsAfterText(Extension, Preprocessor):
    """Lets a list begin right below a line of text, as git hosts do; Python-Markdown wants an empty line.

    Code in fences has been taken out by then (priority 25); what is indented by four spaces is left alone.
    """

    ITEM = re.compile(r" {0,3}([-*+]|1[.)]) ")

    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(self, "lists_after_text", 15)

    def run(self, lines: list[str]) -> list[str]:
        parted: list[str] = []
        in_list = False
        for before, line in zip(["", *lines], lines, strict=False):
            starts = bool(self.ITEM.match(line))
            if starts and not in_list and before.strip():
                parted.append("")
            if starts:
                in_list = True
            elif not before.strip() and line.strip() and not line.startswith(" "):
                in_list = False
            parted.append(line)
        return parted


class ArxivLinks(Extension, InlineProcessor):
    """Makes a link of "arXiv 2011.12640", as docstrings name their papers."""

    def __init__(self) -> None:
        InlineProcessor.__init__(self, r"\barXiv (\d{4}\.\d{4,5})")

    def extendMarkdown(self, md: Markdown) -> None:
        md.inlinePatterns.register(self, "arxiv", 100)

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Element, int, int]:  # type: ignore[override]
        link = Element("a", href=f"https://arxiv.org/abs/{m[1]}")
        link.text = AtomicString(m[0])
        return link, m.start(0), m.end(0)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the navigation's two empty sections."""
    config.markdown_extensions += [ListsAfterText(), ArxivLinks()]  # type: ignore[list-item]
    for section in config.nav or []:
        if "Methods" in section:
            section["Methods"] = [
                {"Overview": "methods.md"},
                *({name: _page(m)} for name, m in METHOD_MODULES.items()),
            ]
        if "Reference" in section:
            section["Reference"] = _reference_nav()
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/."""
    for name, page in AT_THE_ROOT.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    pages = {"command-line-reference.md": _command_line()}
    pages |= {_page(module): _method(name, module) for name, module in METHOD_MODULES.items()}
    pages |= {_page(module): f"# {module}\n\n::: {module}\n" for module in _modules()}
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages."""
    written = {page: name for name, page in AT_THE_ROOT.items()}
    source = written.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def to_page(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["path"]))
        target = _page_of(path)
        if target is None:
            return match[0]
        link = posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")
        return f"]({link}{match['anchor'] or ''})"

    return re.sub(r"\]\((?P<path>(?![a-z]+:)[^)#\s]+)(?P<anchor>#[^)\s]*)?\)", to_page, markdown)


def _page_of(path: str) -> str | None:
    """The page of a file or folder of the repository, if it has one."""
    if path in AT_THE_ROOT:
        return AT_THE_ROOT[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    module = path.removeprefix("training/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return _page(module) if module in {*_modules(), *METHOD_MODULES.values()} else None


def _modules() -> list[str]:
    """Every module of the reference."""
    modules = []
    for top in SOURCES:
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to((ROOT / top).parent).with_suffix("").parts
            if not NOT_IN_REFERENCE & set(parts):
                modules.append(".".join(parts).removesuffix(".__init__"))
    return sorted(set(modules) - set(METHOD_MODULES.values()))


def _page(module: str) -> str:
    """The page of a module; packages are the index of their folder."""
    if module in METHOD_MODULES.values():
        return f"methods/{module.rpartition('.')[2]}.md"
    path = "reference/" + module.replace(".", "/")
    is_package = any(
        (ROOT / top).parent.joinpath(*module.split("."), "__init__.py").exists() for top in SOURCES
    )
    return f"{path}/index.md" if is_package else f"{path}.md"


def _reference_nav() -> list[Any]:
    """Modules as nested sections, as the packages nest."""
    tree: dict[str, Any] = {}
    for module in _modules():
        node = tree
        for part in module.split("."):
            node = node.setdefault(part, {})

    def section(node: dict[str, Any], prefix: str) -> list[Any]:
        entries: list[Any] = []
        for part, below in node.items():
            page = _page(prefix + part)
            entries.append({part: [page, *section(below, f"{prefix}{part}.")] if below else page})
        return entries

    return section(tree, "")


def _method(name: str, module: str) -> str:
    own = [recipe for recipe in recipes.names() if recipe.rpartition("-")[0] == name]
    command = f"```\nmedssl pretrain PROJECT --method {name} --recipe RECIPE\n```"
    return "\n\n".join([f"# {name}", command, _recipe_table(own), f"::: {module}", ""])


def _recipe_table(names: list[str]) -> str:
    lines = [f"| `{recipe.name}` | {recipe.purpose} | {recipe.time} |" for recipe in map(recipes.read, names)]
    return "\n".join(["| recipe | for | time |", "| --- | --- | --- |", *lines, ""])


def _command_line() -> str:
    command = [sys.executable, "-m", "typer", "medssl.cli", "utils", "docs", "--name", "medssl"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    text = re.sub(r'<span style="font-weight: bold">(.*?)</span>', r"**\1**", text)
    return re.sub(r"^(\*\*.*)\n(?=\*\*)", r"\1  \n", text, flags=re.MULTILINE)  # examples keep their lines
