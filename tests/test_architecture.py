"""What the import contracts in pyproject.toml cannot say. `make check` runs those; this runs with the tests."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: All that pure code may import. No clock, chance, thread, socket, file or framework: add a module only if it has none.
PURE_IMPORTS = {
    "__future__",
    "array",
    "base64",
    "bisect",
    "collections",
    "contextlib",
    "dataclasses",
    "enum",
    "functools",
    "hashlib",
    "heapq",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "msgspec",
    "operator",
    "re",
    "string",
    "struct",
    "types",
    "typing",
    "unicodedata",
    "zlib",
}


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", modules("realtime/protocol", "realtime/delivery"), ids=name_of)
def test_pure_modules_import_only_what_has_no_effect(path: Path) -> None:
    below = ("realtime.protocol",) if "protocol" in path.parts else ("realtime.protocol", "realtime.delivery")
    foreign = {
        name for name in imports(path) if name.partition(".")[0] not in PURE_IMPORTS and not name.startswith(below)
    }
    assert not foreign


@pytest.mark.parametrize("path", modules("realtime", "chat", "dashboards", "config"), ids=name_of)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    if name_of(path) in ("config/settings.py", "config/asgi.py"):
        return
    source = path.read_text()
    assert "os.environ[" not in source.replace('os.environ["DJANGO_SETTINGS_MODULE"]', "")
    assert "getenv" not in source
    assert "environ.get(" not in source


@pytest.mark.parametrize("path", [p for p in modules("realtime") if "migrations" not in p.parts], ids=name_of)
def test_every_module_of_the_platform_opens_with_its_role(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if tree.body:  # an empty __init__.py needs no words
        assert ast.get_docstring(tree)


def test_the_platform_can_be_imported_without_django() -> None:
    """`realtime`, `realtime.protocol` and `realtime.delivery` serve tools that have no settings."""
    import subprocess

    code = (
        "import sys, pkgutil, importlib, realtime, realtime.protocol, realtime.delivery\n"
        "for package in (realtime.protocol, realtime.delivery):\n"
        "    for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "sys.exit('django' in sys.modules or 'asyncio' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
