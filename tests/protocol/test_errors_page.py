from __future__ import annotations

from scripts import errors_page


def test_the_page_has_every_row_as_in_the_code() -> None:
    """When this fails: python -m scripts.errors_page"""
    text = errors_page.PAGE.read_text(encoding="utf-8")
    assert text == errors_page.page(text)
