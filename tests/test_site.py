"""The site around the platform: headers, logs, login, admin."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory

from config.logs import FIELDS, JsonLines, PlainLines
from config.middleware import content_security_policy
from tests.browser import complaints
from tests.servers import Site, site_environment

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.mark.django_db
def test_pages_allow_scripts_and_styles_of_this_site_only(client: Client) -> None:
    policy = client.get("/no-such-page").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.django_db
async def test_async_requests_get_the_same_headers(async_client: AsyncClient) -> None:
    response = await async_client.get("/no-such-page")
    assert response.headers["Content-Security-Policy"] == settings.CONTENT_SECURITY_POLICY


@pytest.mark.django_db
def test_the_admin_allows_no_inline_script_either(client: Client) -> None:
    response = client.get("/admin/login/")
    policy = dict(part.split(" ", 1) for part in response.headers["Content-Security-Policy"].split("; "))
    assert response.status_code == 200
    assert policy["script-src"] == "'self' 'unsafe-eval'"
    assert policy["frame-ancestors"] == "'none'"


def test_a_view_may_set_a_policy_of_its_own(rf: RequestFactory) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(headers={"Content-Security-Policy": "sandbox"})

    response = content_security_policy(view)(rf.get("/"))
    assert isinstance(response, HttpResponse)
    assert response.headers["Content-Security-Policy"] == "sandbox"


@pytest.mark.django_db
def test_pages_are_neither_framed_nor_sniffed_and_say_little_to_others(client: Client) -> None:
    headers = client.get("/admin/login/").headers
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize(
    ("line", "logged"),
    [
        ('"GET /api/v1/events?access_token=ey.J.x HTTP/1.1" 200', '"GET /api/v1/events?… HTTP/1.1" 200'),
        ("Not Found: /x?a=1&b=2", "Not Found: /x?…"),
        ("http://host/poll?token=1 and /poll?token=2", "http://host/poll?… and /poll?…"),
        ("Is it there? Yes.", "Is it there? Yes."),
        ("/plain/path", "/plain/path"),
    ],
)
def test_query_strings_do_not_reach_the_log(line: str, logged: str) -> None:
    for message, arguments in ((line, ()), ("%s", (line,))):
        record = logging.LogRecord("django.request", logging.INFO, __file__, 1, message, arguments, None)
        assert PlainLines().format(record) == logged
        assert json.loads(JsonLines().format(record))["message"] == logged


SECRETS = (
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbmEifQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
    "6dJ-secret_of-a-key",
    "opaque-credential",
    "p4ssw0rd",
)


def test_no_log_line_has_a_secret_wherever_it_stands_in_the_record() -> None:
    jwt, key, bearer, password = SECRETS
    text = f"token {jwt}, key ser_abc123def456_{key}, Authorization: Bearer {bearer}, postgres://ana:{password}@db/x"
    try:
        raise ValueError(text)
    except ValueError:
        record = logging.LogRecord("realtime", logging.ERROR, __file__, 1, "%s", (text,), sys.exc_info())
    record.client = text
    for formatter in (PlainLines(), JsonLines()):
        line = formatter.format(record)
        assert "Traceback" in line
        assert [secret for secret in SECRETS if secret in line] == []
        # Which key it was is worth knowing.
        assert "ser_abc123def456_…" in line


def test_json_lines_say_what_is_known_and_nothing_else() -> None:
    record = logging.LogRecord("realtime.hub", logging.ERROR, __file__, 1, 'The log of "%s"\nhas a hole.', ("ä",), None)
    record.channel, record.serial, record.password = "chat:lobby", 42, "p"
    line = JsonLines().format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert said.pop("time").endswith("+00:00")
    assert said == {
        "level": "error",
        "logger": "realtime.hub",
        "message": 'The log of "ä"\nhas a hole.',
        "channel": "chat:lobby",
        "serial": 42,
    }


def test_what_the_platform_says_beside_its_messages_are_fields_of_a_line() -> None:
    """A field that the formatter does not know would be lost without a word."""
    given = set()
    for module in (Path(settings.BASE_DIR) / "realtime").rglob("*.py"):
        text = module.read_text()
        for found in re.findall(r"extra=\{([^}]*)\}", text) + re.findall(r"def _known\(.*?\{(.*?)\}", text, re.DOTALL):
            given |= set(re.findall(r'"(\w+)":', found))
    assert {"connection", "client", "channel", "serial"} <= given <= set(FIELDS)


def test_a_site_can_log_in_json(tmp_path: Path) -> None:
    code = "import logging; logging.getLogger('realtime').warning('x', extra={'client': 'ana'})"
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v", "0", "-c", code],
        cwd=settings.BASE_DIR,
        env=site_environment(tmp_path, LOG_FORMAT="json"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stderr)["client"] == "ana"


@pytest.mark.browser
@pytest.mark.e2e
def test_an_operator_can_log_in_and_look_around_the_admin(site: Site, browser: Browser) -> None:
    site.manage("shell", given=_MAKE_OPERATOR)
    page = browser.new_page()
    found = complaints(page)
    page.goto(f"{site.url}/admin/")
    page.fill("input[name=username]", "operator")
    page.fill("input[name=password]", "a long enough password")
    page.click("button[type=submit]")
    page.wait_for_url(f"{site.url}/admin/")
    links = page.eval_on_selector_all("a[href^='/admin/']", "all => all.map(one => one.getAttribute('href'))")
    lists = sorted({link for link in links if re.fullmatch(r"/admin/\w+/\w+/", link)})
    assert "/admin/auth/user/" in lists
    for path in [*lists, "/admin/auth/user/add/"]:
        response = page.goto(site.url + path)
        assert response is not None
        assert response.status == 200, path
    assert [text for text in found if "favicon" not in text] == []


_MAKE_OPERATOR = """
from django.contrib.auth.models import User
User.objects.create_superuser("operator", password="a long enough password")
"""
