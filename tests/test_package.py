"""What the wheel asks for: all that the platform imports, and nothing that it does not."""

from __future__ import annotations

import ast
import re
import sys
import tomllib

from tests.project import ROOT

#: Names of distributions where they differ from those of their modules; None: comes with another one on purpose.
DISTRIBUTIONS: dict[str, str | None] = {
    "django": "Django",
    "rest_framework": "djangorestframework",
    "drf_spectacular": "drf-spectacular",
    "jwt": "PyJWT",
    "twisted": "Twisted",
    "channels": "channels",
    "unfold": "django-unfold",
    "cryptography": None,  # PyJWT[crypto]
    "zope": None,  # Twisted
    "asgiref": None,  # Django
    "pytest": None,  # whoever loads the plugin has it
}
#: Used by its name in settings, not imported.
NAMED = {"channels-redis", "redis"}


def imported() -> set[str]:
    found = set()
    for path in (ROOT / "realtime").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"realtime"}


def test_the_package_requires_what_it_imports_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    given = [*project["dependencies"], *project["optional-dependencies"]["unfold"]]
    required = {re.split(r"[\[<>=]", each)[0] for each in given}
    needed = {DISTRIBUTIONS.get(name, name) for name in imported()} - {None}
    assert required == needed | NAMED


def test_the_version_is_that_of_the_package() -> None:
    import realtime

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == realtime.__version__
