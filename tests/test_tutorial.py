"""The tutorial "Add it to your project", done to the letter in a fresh project with a user model of its own.

Commands and files are taken from the page. What the page cannot know is added here: that the project has its own user
model and a strict Content-Security-Policy before, where the package comes from, and a free port.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from tests.browser import complaints
from tests.conftest import MS, eventually
from tests.project import ROOT, Project, blocks, build_wheel
from tests.servers import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

PAGE = ROOT / "docs" / "tutorial" / "add-it-to-your-project.md"
PATIENCE_S = 60_000 * MS

USER_MODEL = """
import uuid
from django.contrib.auth.models import AbstractUser
from django.db import models


class Person(AbstractUser):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
"""

POLICY = """
def policy(get_response):
    def respond(request):
        response = get_response(request)
        if not request.path.startswith("/admin/"):
            response["Content-Security-Policy"] = (
                "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:; form-action 'self'"
            )
        return response
    return respond
"""

BEFORE = """
INSTALLED_APPS += ["people"]
AUTH_USER_MODEL = "people.Person"
MIDDLEWARE += ["people.policy.policy"]
"""


class Running:
    """The last command of the page, `runserver`, on a port of our own."""

    def __init__(self, project: Project, command: str) -> None:
        self.project = project
        self.port = free_port()
        self.log = project.folder.parent / "runserver.log"
        self._command = f"exec {command} 127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", self._command],
                cwd=self.project.folder,
                env=self.project.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        eventually(self.answers, PATIENCE_S, every_s=0.05, what=self.log.read_text())

    def answers(self) -> bool:
        try:
            with urlopen(f"{self.url}/realtime/healthz", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def starts(self) -> int:
        """How often it has begun to serve."""
        return self.log.read_text().count("Starting development server")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            # As Ctrl-C in a terminal: the reloader and its child.
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Iterator[Running]:
    """Everything that the page says, done, and its server started."""
    project = Project(tmp_path_factory.mktemp("project"), wheel)
    project.run("python manage.py startapp people")
    project.write("people/models.py", USER_MODEL)
    project.write("people/policy.py", POLICY)
    project.write("mysite/settings.py", BEFORE, append=True)
    project.run("python manage.py makemigrations people")
    server: Running | None = None
    for block in blocks(PAGE):
        if block.path is not None:
            project.write(block.path, block.text, append=block.append)
        for command in block.commands:
            assert server is None, "runserver is the last command of the page"
            if command.startswith("pip install"):
                project.install()
            elif command.endswith("manage.py runserver"):
                server = Running(project, command)
            else:
                project.run(command)
    assert server is not None
    server.start()
    yield server
    server.stop()


@pytest.fixture
def page(browser: Browser, running: Running) -> Iterator[Page]:
    """The board, in a window where ana has logged in."""
    context = browser.new_context()
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_S * 1000)
    opened.goto(running.url)
    opened.fill("[name=username]", "ana")
    opened.fill("[name=password]", "ana")
    opened.click("[type=submit]")
    opened.wait_for_selector("#notes", state="attached")
    yield opened
    context.close()


def pin(page: Page, running: Running, text: str) -> None:
    """Pins a note in a window of its own, whose page has gone when the other one changes."""
    other = page.context.new_page()
    other.goto(running.url)
    other.fill("[name=text]", text)
    other.click("button")
    other.wait_for_load_state()
    other.close()


def notes(page: Page) -> list[str]:
    found: list[str] = page.locator("#notes li").all_inner_texts()
    return found


def test_the_wheel_has_the_app_and_the_sdk_and_nothing_of_the_site(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sdk = {f"realtime/static/seriatim/{path.name}" for path in (ROOT / "clients" / "js" / "src").glob("*.js")}
    assert sdk <= names
    app = {str(path.relative_to(ROOT)) for path in (ROOT / "realtime").rglob("*.py")}
    assert app <= names
    assert {"realtime/py.typed", "realtime/templates/realtime/admin/messages.html"} <= names
    assert {f"realtime/templates/realtime/api_docs{part}.html" for part in ("", "_body", "_files")} <= names
    assert {f"realtime/static/realtime/api-docs.{kind}" for kind in ("js", "css")} <= names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"realtime"}


def test_a_page_shows_what_a_view_commits(page: Page, running: Running) -> None:
    found = complaints(page)
    page.reload()
    pin(page, running, "The ferry is in.")
    pin(page, running, "Gates are open.")
    eventually(lambda: notes(page)[:2] == ["Gates are open.", "The ferry is in."], PATIENCE_S)
    assert found == []


def test_a_page_goes_on_when_the_server_reloads(page: Page, running: Running) -> None:
    pin(page, running, "before")
    eventually(lambda: "before" in notes(page), PATIENCE_S)
    starts = running.starts()
    views = running.project.folder / "board" / "views.py"
    views.write_text(views.read_text().replace('{"text": note.text}', '{"text": f"{note.text}!"}'))
    eventually(lambda: running.starts() > starts, PATIENCE_S, every_s=0.05)
    pin(page, running, "after")
    eventually(lambda: "after!" in notes(page), PATIENCE_S)
    shown = notes(page)
    assert len(shown) == len(set(shown)), "nothing twice"
    assert shown.index("after!") < shown.index("before")
    assert not re.search(r"Traceback|Error", running.log.read_text())


def test_the_operators_desk_needs_no_theme(page: Page, running: Running) -> None:
    """The project has no django-unfold among its apps."""
    for path in ("namespace/default/change/", "channel/", "log/", "apikey/add/"):
        answer = page.goto(f"{running.url}/admin/realtime/{path}")
        assert answer is not None and answer.status == 200, path
    page.fill("[name=name]", "quay")
    page.click("[name=_save]")
    assert "ser_" in page.inner_text("#api-key")


def test_the_ten_lines_are_ten(wheel: Path) -> None:
    """Lines of code between "Ten lines" and the next heading, counting a dict as one."""
    part = PAGE.read_text().partition("## Ten lines\n")[2].partition("\n## ")[0]
    code = "\n".join(re.findall(r"```python\n(.*?)```", part, re.DOTALL))
    lines = [line for line in code.splitlines() if line and not line.startswith((" ", "}"))]
    assert len(lines) <= 10
