"""`/api/schema` and `/api/docs`: the HTTP interface described for machines, and for people in a browser.

The document is made once per process from the views and the one table of errors: a view names the codes it may answer
with (`schema.described`), and everything said about them comes from the table. What is no view of DRF (probes, metrics,
the token for pages) is added by hand. It says nothing about a site but what every site has, so everybody may read it.

Settings of the project's own `SPECTACULAR_SETTINGS` and `REST_FRAMEWORK` change nothing here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from typing import Any, Final, cast

from django.apps import apps
from django.conf import settings as django_settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer
from drf_spectacular.settings import SPECTACULAR_DEFAULTS, patched_settings

from realtime.api.schema import CODES, VISIBLE
from realtime.api.views import TOKEN_TTL_MOST_S
from realtime.protocol.errors import ERRORS

SIDECAR: Final = "drf_spectacular_sidecar"
"""The app that has Swagger UI as static files."""

RATE_HEADERS: Final = {
    "RateLimit-Remaining": "What may be published now.",
    "RateLimit-Reset": "Seconds until there is room again.",
}

EVERYWHERE: Final = ("unauthorized", "unavailable", "internal")
"""Codes that any request with credentials may meet."""

SETTINGS: Final[dict[str, Any]] = {
    # All of them, so that the project's own count for nothing; but for those of the library's own views.
    **{
        name: value
        for name, value in SPECTACULAR_DEFAULTS.items()
        if not name.startswith("SERVE_") and name != "DEFAULT_GENERATOR_CLASS"
    },
    "TITLE": "Seriatim",
    "DESCRIPTION": (
        "Realtime channels over HTTP: publish, read, issue tokens. Every refusal has one shape, with a code, what went "
        "wrong and what to do. Other paths below `/api` are 404 `not_found`, other methods 405 `bad_frame` with the "
        "header `Allow`."
    ),
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "/api/v[0-9]",
    # What a PATCH needs it needs: there are no partial ones.
    "COMPONENT_SPLIT_PATCH": False,
}

Json = dict[str, Any]

_lock = threading.Lock()
_document: Json | None = None


def schema(request: HttpRequest) -> HttpResponse:
    """The OpenAPI 3.1 document, as JSON."""
    # Where the project has put the platform is known by the path that led here.
    base = request.path.removesuffix("/api/schema")
    text = json.dumps({**document(), "servers": [{"url": base or "/"}]}, ensure_ascii=False)
    return _fresh(HttpResponse(text, content_type="application/json"))


def docs(request: HttpRequest) -> HttpResponse:
    """The same for people, where the project has the files of Swagger UI; else a page that points to the document."""
    context = {
        "schema": f"{request.path.removesuffix('/docs')}/schema",
        "swagger": apps.is_installed(SIDECAR),
        "sidecar": SIDECAR,
        "csrf_cookie": django_settings.CSRF_COOKIE_NAME,
    }
    return _fresh(render(request, "realtime/api_docs.html", context))


def _fresh(response: HttpResponse) -> HttpResponse:
    response.headers["Cache-Control"] = "no-cache"
    return response


def document() -> Json:
    """The document without `servers`. Not to be changed."""
    global _document
    with _lock:
        if _document is None:
            _document = _made()
        return _document


def _made() -> Json:
    generator = SchemaGenerator(urlconf="realtime.api.urls")  # type: ignore[no-untyped-call]
    with patched_settings(SETTINGS):
        found = generator.get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
        made = cast("Json", json.loads(OpenApiJsonRenderer().render(found)))
    made["paths"] |= _others(made["components"]["schemas"])
    made["components"]["schemas"] |= {"Error": _error(), "ErrorFacts": _facts()}
    _tighten(made["components"]["schemas"])
    single = {"allOf": [{"$ref": "#/components/schemas/MessageIn"}, {"not": {"required": ["messages"]}}]}
    for media in made["paths"]["/api/v1/channels/{name}/messages"]["post"]["requestBody"]["content"].values():
        media["schema"] = {"anyOf": [media["schema"], single]}
    for path in made["paths"].values():
        for operation in path.values():
            _describe_errors(operation)
    made["paths"] = dict(sorted(made["paths"].items()))
    return made


# ---------------------------------------------------------------------- what serializers cannot say


def _tighten(schemas: Json) -> None:
    """What the parsers demand of bodies beside types and lengths: so that what is described is taken, and nothing else
    refused. tests/fuzz/schema.py tries it."""
    client = {"type": ["string", "null"], "pattern": VISIBLE, "minLength": 1}
    for name, field, more in (
        ("MessageIn", "id", {"type": ["string", "null"], "pattern": VISIBLE, "minLength": 1}),
        ("MessageIn", "event", {"type": ["string", "null"], "minLength": 1}),
        ("MessageIn", "key", {"type": ["string", "null"], "minLength": 1, "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]+$"}),
        ("MessagesIn", "client", client),
        ("MessagesIn", "messages", {"minItems": 1, "maxItems": 1000}),
        ("SignalIn", "event", {"minLength": 1}),
        ("SignalIn", "to", {"pattern": "^[!-~]*$"}),
        ("SignalIn", "client", client),
        ("PublishIn", "client", client),
        ("PublishIn", "items", {"minItems": 1, "maxItems": 100}),
        ("TokenIn", "client", {"pattern": VISIBLE, "minLength": 1}),
        ("TokenIn", "cap", {"type": ["object", "null"], "propertyNames": {"pattern": "^[^*]*[*]?$"}}),
        ("TokenIn", "ttl_s", {"type": ["number", "null"], "maximum": TOKEN_TTL_MOST_S}),
        ("RevokeIn", "jti", {"minLength": 1, "pattern": "^[^\\x00]+$"}),
        ("RevokeIn", "client", {"pattern": VISIBLE, "minLength": 1}),
        ("RevokeIn", "key", {"pattern": "^[A-Za-z0-9]{4,32}$", "minLength": 4}),
    ):
        schemas[name]["properties"][field] |= more
    schemas["RevokeIn"]["oneOf"] = [{"required": [each]} for each in ("jti", "client", "key")]
    # Each item is judged by itself: one that is none is answered so, and the others are stored.
    items = schemas["PublishIn"]["properties"]["items"]
    items["items"] = {"anyOf": [items["items"], {}]}
    refused = {"type": "object", "properties": {"error": {"$ref": "#/components/schemas/ErrorFacts"}}}
    schemas["ItemOut"] = {
        "oneOf": [{"$ref": "#/components/schemas/PublishedOut"}, {**refused, "required": ["error"]}],
        "description": "What was stored, or why nothing was.",
    }


# ---------------------------------------------------------------------- errors


def _describe_errors(operation: Json) -> None:
    """Puts the answers for the codes that an operation names in place of their names."""
    codes = operation.pop(CODES, ())
    if codes and operation.get("security"):
        codes = [*codes, *EVERYWHERE]
    for status in sorted({ERRORS[code].http_status for code in codes}):
        operation["responses"][str(status)] = _refusal(
            status, [code for code in ERRORS if code in codes and ERRORS[code].http_status == status]
        )
    if "requestBody" in operation:
        operation["requestBody"]["required"] = True
        operation["responses"]["415"] = _refusal(415, ["bad_frame"])
    operation["responses"] = dict(sorted(operation["responses"].items()))


def _refusal(status: int, codes: list[str]) -> Json:
    """The answer with one status: which codes it may have, and what they mean."""
    only = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
    answer: Json = {
        "description": "\n\n".join(f"`{code}`: {ERRORS[code].meaning} {ERRORS[code].remedy}" for code in codes),
        "content": {
            "application/json": {"schema": {"allOf": [{"$ref": "#/components/schemas/Error"}, only]}},
        },
    }
    if status == 415:
        answer["description"] = "`bad_frame`: The body is not JSON by its Content-Type, or it is compressed."
    headers: Json = {}
    if status == 401:
        headers["WWW-Authenticate"] = {"schema": {"type": "string"}}
    if status in (429, 503):
        headers["Retry-After"] = {"description": "Whole seconds, rounded up.", "schema": {"type": "integer"}}
    if status == 429:
        headers |= {name: {"description": text, "schema": {"type": "integer"}} for name, text in RATE_HEADERS.items()}
    return {**answer, "headers": headers} if headers else answer


def _error() -> Json:
    facts = {"$ref": "#/components/schemas/ErrorFacts"}
    return {"type": "object", "properties": {"error": facts}, "required": ["error"]}


def _facts() -> Json:
    """Why a request, or an item of one, was refused; the codes are those of the table."""
    meanings = "\n".join(f"* `{row.code}` ({row.http_status}): {row.meaning}" for row in ERRORS.values())
    return {
        "type": "object",
        "properties": {
            "code": {"type": "string", "enum": list(ERRORS), "description": meanings},
            "message": {"type": "string", "description": "What went wrong."},
            "remedy": {"type": "string", "description": "What to do."},
            "channel": {"type": "string"},
            "retry_after_ms": {"type": "integer", "description": "When the same request may succeed."},
        },
        "required": ["code", "message", "remedy"],
    }


# ---------------------------------------------------------------------- what is no view of DRF


def _others(schemas: Json) -> Json:
    """Probes, metrics and the token for pages."""
    alive = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
    ready = {
        **alive,
        "properties": {
            "status": {"type": "string"},
            "checks": {"type": "object", "additionalProperties": {"type": "boolean"}},
        },
    }
    token = {"$ref": "#/components/schemas/TokenOut"}
    assert "TokenOut" in schemas
    return {
        "/healthz": {"get": _operation("healthz", "The process is alive.", {"200": _json(alive, "It is.")})},
        "/readyz": {
            "get": _operation(
                "readyz",
                "This worker can take traffic.",
                {"200": _json(ready, "It can."), "503": _json(ready, "It cannot; `checks` says why.")},
            )
        },
        "/metrics": {
            "get": {
                **_operation(
                    "metrics",
                    "The numbers of all workers behind this address, for Prometheus. Needs an API key with `admin` on "
                    "`$metrics`, or an address of `METRICS_NETWORKS`.",
                    {
                        "200": {
                            "description": "In the format that `Accept` prefers.",
                            "content": {
                                kind: {"schema": {"type": "string"}}
                                for kind in ("text/plain", "application/openmetrics-text")
                            },
                        }
                    },
                    [{"bearer": []}, {}],
                ),
                CODES: ["forbidden", "not_found"],
            }
        },
        "/seriatim/token": {
            "get": {
                **_operation(
                    "page_token",
                    "A token for who is logged in, for a page of this site.",
                    {"200": _json(token, "A token.")},
                    [{"session": []}],
                ),
                CODES: ["forbidden"],
            }
        },
    }


def _operation(name: str, description: str, responses: Json, security: Iterable[Json] = ()) -> Json:
    """Without credentials unless `security` names some."""
    operation = {"operationId": name, "description": description, "tags": ["site"], "responses": responses}
    return {**operation, "security": list(security)}


def _json(schema: Json, description: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
