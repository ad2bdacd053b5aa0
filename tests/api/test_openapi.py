"""`/api/schema` and `/api/docs`: valid, whole, and the same in every project."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings as django_settings
from django.test import Client, override_settings
from django.urls import URLPattern, URLResolver, include, path
from drf_spectacular.settings import spectacular_settings
from drf_spectacular.validation import validate_schema

from realtime import urls
from realtime.api import openapi
from realtime.protocol.errors import ERRORS
from tests.browser import complaints
from tests.conftest import eventually
from tests.servers import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}

urlpatterns = [path("app/realtime/", include("realtime.urls"))]
"""A project that has put the platform under a prefix."""


def served(client: Client, at: str = "/api/schema") -> Any:
    response = client.get(at)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    return json.loads(response.content)


def operations(document: Any) -> Iterator[tuple[str, Any]]:
    for address, methods in document["paths"].items():
        for method, operation in methods.items():
            assert method in METHODS
            yield f"{method} {address}", operation


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from nodes(each)
    elif isinstance(value, list):
        for each in value:
            yield from nodes(each)


def test_the_document_is_valid_openapi_3_1(client: Client) -> None:
    document = served(client)
    assert document["openapi"].startswith("3.1")
    validate_schema(document)  # type: ignore[no-untyped-call]


def test_what_the_metaschema_cannot_say_holds_too(client: Client) -> None:
    document = served(client)
    for node in nodes(document):
        if "$ref" in node:
            target = document
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names))
    used = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert used == set(document["components"]["schemas"]), "a component that nobody refers to"
    for where, operation in operations(document):
        in_path = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", where))
        assert not [key for key in operation if key.startswith("x-")]
        schemes = {name for each in operation["security"] for name in each}
        assert schemes <= set(document["components"]["securitySchemes"])
        assert operation["description"]
        for response in operation["responses"].values():
            assert response["description"]


def addresses(patterns: list[URLPattern | URLResolver], before: str = "") -> Iterator[str]:
    for pattern in patterns:
        text = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from addresses(pattern.url_patterns, text)
        else:
            yield re.sub(r"\(\?P<(\w+)>\(\?s:\.\*\)\)", r"{\1}", text).removeprefix(r"\A").removesuffix(r"\Z")


def test_every_address_is_described(client: Client) -> None:
    known = {f"/{address}" for address in addresses(urls.urlpatterns)}
    # The document and its page themselves, and what answers that there is nothing.
    assert known - {"/api/schema", "/api/docs", r"/api(?:/|\Z)", "/api(?:/|"} == set(served(client)["paths"])


def test_every_error_of_the_table_is_in_it(client: Client) -> None:
    code = served(client)["components"]["schemas"]["ErrorFacts"]["properties"]["code"]
    assert code["enum"] == list(ERRORS)
    for row in ERRORS.values():
        assert f"`{row.code}` ({row.http_status}): {row.meaning}" in code["description"]


def test_every_operation_tells_its_refusals_with_the_status_of_the_table(client: Client) -> None:
    for where, operation in operations(served(client)):
        told = set()
        for status, response in operation["responses"].items():
            schema = response.get("content", {}).get("application/json", {}).get("schema", {})
            if "allOf" not in schema:
                continue
            for code in schema["allOf"][1]["properties"]["error"]["properties"]["code"]["enum"]:
                assert int(status) in (ERRORS[code].http_status, 415)
                assert int(status) == 415 or ERRORS[code].meaning in response["description"]
                told.add(code)
            assert ("Retry-After" in response.get("headers", {})) == (status in ("429", "503"))
        assert bool(operation["security"]) == ({"unauthorized", "unavailable", "internal"} <= told), where
        assert ("415" in operation["responses"]) == ("requestBody" in operation)


def test_it_says_where_the_project_has_put_it(client: Client) -> None:
    assert served(client)["servers"] == [{"url": "/"}]
    # A project of its own has not this site's templates.
    templates = [{**django_settings.TEMPLATES[0], "DIRS": []}]
    with override_settings(ROOT_URLCONF=__name__, TEMPLATES=templates):
        document = served(client, "/app/realtime/api/schema")
        assert document["servers"] == [{"url": "/app/realtime"}]
        assert "/api/v1/publish" in document["paths"]
        page = client.get("/app/realtime/api/docs")
        assert b'data-schema="/app/realtime/api/schema"' in page.content


def test_a_projects_own_settings_change_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    before = openapi.document()
    monkeypatch.setattr(openapi, "_document", None)
    # It reads its settings once, when it is imported.
    for name, value in {
        "TITLE": "Shop",
        "OAS_VERSION": "3.0.3",
        "SCHEMA_PATH_PREFIX_INSERT": "/shop",
        "SERVERS": [{"url": "https://shop.example"}],
        "PREPROCESSING_HOOKS": [lambda endpoints: []],
        "POSTPROCESSING_HOOKS": [lambda result, **_: {}],
        "SECURITY": [{"shop": []}],
    }.items():
        getattr(spectacular_settings, name)
        monkeypatch.setitem(spectacular_settings.__dict__, name, value)
    with override_settings(
        REST_FRAMEWORK={
            "DEFAULT_SCHEMA_CLASS": "rest_framework.schemas.coreapi.AutoSchema",
            "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAdminUser"],
            "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.BrowsableAPIRenderer"],
        },
    ):
        assert {**served(client), "servers": None} == {**before, "servers": None}


def test_neither_needs_credentials_nor_a_database(client: Client) -> None:
    """No fixture of this test gives it one."""
    for address in ("/api/schema", "/api/docs"):
        response = client.get(address)
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "no-cache"


def test_without_swagger_ui_the_page_points_to_the_document(client: Client) -> None:
    apps = [app for app in django_settings.INSTALLED_APPS if app != openapi.SIDECAR]
    with override_settings(INSTALLED_APPS=apps):
        page = client.get("/api/docs").content.decode()
    assert '<a href="/api/schema">' in page and "drf-spectacular-sidecar" in page
    assert "swagger-ui" not in page and "api-docs.js" not in page


@pytest.mark.browser
@pytest.mark.e2e
def test_the_page_shows_every_operation_and_asks_nobody_else(site: Site, browser: Browser) -> None:
    page = browser.new_page()
    found = complaints(page)
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
    count = len(list(operations(page.request.get(f"{site.url}/api/schema").json())))
    page.goto(f"{site.url}/api/docs")
    eventually(lambda: page.locator(".opblock").count() == count, 20, what="all operations are shown")
    page.locator("#operations-channels-publish button").first.click()
    page.locator("text=bad_channel").first.wait_for()
    page.locator("#operations-site-healthz button").first.click()
    page.locator("#operations-site-healthz .try-out__btn").click()
    page.locator("#operations-site-healthz .execute").click()
    page.locator("#operations-site-healthz .live-responses-table").wait_for()
    assert found == []
    assert {each for each in asked if each} == {urlsplit(site.url).netloc}
    page.close()
