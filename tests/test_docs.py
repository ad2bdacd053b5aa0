from __future__ import annotations

import re
from pathlib import Path

import pytest

from realtime.metrics import METRICS
from scripts import metrics_page, settings_page

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
#: Template tags begin like metrics.
TAGS = {"seriatim_config", "seriatim_script"}
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    broken = []
    for target in _LINK.findall(_CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file.read_text())):
            broken.append(target)
    assert not broken


def test_pages_that_the_code_names_are_there() -> None:
    broken = []
    for module in sorted((ROOT / "realtime").rglob("*.py")):
        for path, anchor in re.findall(r"(docs/[\w/-]+\.md)(?:#([\w-]+))?", module.read_text()):
            page = ROOT / path
            if not page.exists() or (anchor and anchor not in anchors(page.read_text())):
                broken.append(f"{name_of(module)}: {path}#{anchor}")
    assert not broken


@pytest.mark.parametrize("folder", ["tutorial", "how-to", "reference", "explanation", "decisions"])
def test_every_page_is_in_the_index_of_its_folder(folder: str) -> None:
    index = (ROOT / "docs" / folder / "README.md").read_text()
    pages = [page.name for page in (ROOT / "docs" / folder).glob("*.md") if page.name != "README.md"]
    assert [name for name in pages if f"({name})" not in index] == []


def test_the_settings_page_has_every_key_as_in_the_code() -> None:
    """When this fails: python -m scripts.settings_page"""
    text = settings_page.PAGE.read_text()
    assert text == settings_page.page(text)


def test_the_metrics_page_has_every_metric_as_in_the_registry() -> None:
    """When this fails: python -m scripts.metrics_page"""
    text = metrics_page.PAGE.read_text()
    assert text == metrics_page.page(text)
    rows = re.findall(r"^\| `(seriatim_\w+)` \|", text, re.MULTILINE)
    assert rows == ["seriatim_worker_up", "seriatim_workers_configured", *[metric.name for metric in METRICS]]


def test_pages_name_only_metrics_that_exist() -> None:
    made = "_(bucket|count|sum)$"
    known = {"seriatim_worker_up", "seriatim_workers_configured", *[metric.name for metric in METRICS]}
    for page in PAGES:
        named = set(re.findall(r"\bseriatim_(?!client)[a-z_]+[a-z]\b", page.read_text()))
        assert {re.sub(made, "", name) if name not in known else name for name in named} - known - TAGS == set(), page


def test_the_settings_page_has_every_variable_of_the_environment() -> None:
    source = (ROOT / "config" / "settings.py").read_text()
    read = set(re.findall(r'\benv(?:\.\w+)?\(\s*"([A-Z_]+)"', source))
    listed = set(
        re.findall(r"^\| `([A-Z_]+)` \|", settings_page.PAGE.read_text().partition("## `REALTIME`")[0], re.MULTILINE)
    )
    assert len(read) > 10
    assert listed == read


def test_the_checks_page_has_every_id() -> None:
    raised = set(re.findall(r'id="(realtime\.[EW]\d{3})"', (ROOT / "realtime" / "checks.py").read_text()))
    listed = re.findall(
        r"^\| `(realtime\.[EW]\d{3})` \|", (ROOT / "docs/reference/checks.md").read_text(), re.MULTILINE
    )
    assert listed == sorted(raised)


def test_the_ci_runs_what_the_readme_says() -> None:
    command = (ROOT / ".ci" / "run").read_text().splitlines()[-1].removeprefix("exec ")
    assert f"```sh\n{command}\n```" in (ROOT / "README.md").read_text()


def test_the_glossary_has_each_term_once_and_in_order() -> None:
    text = (ROOT / "docs" / "reference" / "glossary.md").read_text()
    terms = [term.lower() for term in re.findall(r"^\| \*\*(.+?)\*\*", text, re.MULTILINE)]
    assert len(terms) > 60
    assert terms == sorted(set(terms))
