"""Every refusal has one shape, whoever raised it; a fault of ours is told to the log and not to the client."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404
from rest_framework import exceptions

from realtime.api import views
from realtime.api.errors import exception_handler
from realtime.protocol.errors import ERRORS, ProtocolError
from tests.api.conftest import Api, assert_refused, messages_path


@pytest.mark.parametrize("code", ERRORS)
def test_every_row_of_the_table_has_its_status(code: str) -> None:
    error = assert_refused(exception_handler(ProtocolError(code)), ERRORS[code].http_status, code)
    assert error["message"] == ERRORS[code].message and error["remedy"] == ERRORS[code].remedy


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (exceptions.NotAuthenticated(), 401, "unauthorized"),
        (exceptions.AuthenticationFailed(), 401, "unauthorized"),
        (exceptions.PermissionDenied(), 403, "forbidden"),
        (PermissionDenied(), 403, "forbidden"),
        (exceptions.NotFound(), 404, "not_found"),
        (Http404(), 404, "not_found"),
        (exceptions.MethodNotAllowed("PUT"), 405, "bad_frame"),
        (exceptions.NotAcceptable(), 406, "bad_frame"),
        (exceptions.UnsupportedMediaType("text/plain"), 415, "bad_frame"),
        (exceptions.ParseError(), 400, "bad_frame"),
        (exceptions.ValidationError({"a": ["b"]}), 400, "bad_frame"),
        (exceptions.Throttled(1.2), 429, "rate_limited"),
        (exceptions.Throttled(), 429, "rate_limited"),
        (RequestDataTooBig(), 413, "too_large"),
        (SuspiciousOperation(), 400, "bad_frame"),
        (OperationalError("secret"), 503, "unavailable"),
        (InterfaceError("secret"), 503, "unavailable"),
        (ZeroDivisionError("secret"), 500, "internal"),
        (exceptions.APIException("secret"), 500, "internal"),
    ],
)
def test_every_exception_has_the_one_shape(fault: Exception, status: int, code: str) -> None:
    error = assert_refused(exception_handler(fault), status, code)
    assert "secret" not in json.dumps(error)


@pytest.mark.parametrize(
    "path", ["/api", "/api/", "/api/v1", "/api/v1/", "/api/v1/nothing/here", "/api/v2/publish", "/api/v1/publish/"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_unknown_paths_have_the_one_shape(api: Api, method: str, path: str) -> None:
    assert_refused(api.request(method, path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", messages_path("x"), "GET, POST"),
        ("PATCH", messages_path("x"), "GET, POST, DELETE"),
        ("OPTIONS", messages_path("x"), "GET, POST"),
        ("GET", "/api/v1/publish", "POST"),
        ("POST", "/api/v1/channels/x", "GET"),
        ("PATCH", "/api/v1/tokens", "POST"),
    ],
)
def test_a_method_that_an_address_does_not_know(api: Api, method: str, path: str, allowed: str) -> None:
    response = api.request(method, path, {"data": 1})
    assert_refused(response, 405, "bad_frame", "Allow")
    assert set(allowed.split(", ")) <= set(response.headers["Allow"].split(", "))


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=latin-1",
        "x",
    ],
)
def test_another_media_type_is_415(api: Api, content_type: str) -> None:
    response = api.request("POST", messages_path("x"), raw=b'{"data":1}', content_type=content_type)
    assert_refused(response, 415, "bad_frame", "application/json")


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=UTF-8", "Application/JSON"])
def test_json_by_any_spelling_is_accepted(api: Api, content_type: str) -> None:
    response = api.request("POST", messages_path("x"), raw=b'{"data":1}', content_type=content_type)
    assert response.status_code == 201


def test_a_compressed_body_is_415(api: Api) -> None:
    assert_refused(api.publish("x", {"data": 1}, Content_Encoding="gzip"), 415, "bad_frame")


def test_whatever_accept_says_json_is_the_answer(api: Api) -> None:
    for accept in ("text/html", "application/xml", "image/*", "nonsense"):
        assert api.page("x", Accept=accept).headers["Content-Type"] == "application/json"


def test_a_fault_of_ours_is_logged_and_not_told(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise RuntimeError("the inside")

    monkeypatch.setattr(views, "publish_batch", fail)
    monkeypatch.setattr(logging.getLogger("realtime"), "propagate", True)
    response = api.publish("x", {"data": 1})
    assert_refused(response, 500, "internal")
    assert b"inside" not in response.content
    assert any(record.exc_info and "the inside" in str(record.exc_info[1]) for record in caplog.records)


def test_an_unavailable_database_is_told_with_when_to_come_back(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> Any:
        raise ProtocolError("unavailable", retry_after_ms=1200)

    monkeypatch.setattr(views, "publish_batch", away)
    response = api.publish("x", {"data": 1})
    assert assert_refused(response, 503, "unavailable")["retry_after_ms"] == 1200
    assert response.headers["Retry-After"] == "2"
