"""What views say of themselves for the OpenAPI document: credentials, names, the errors they answer with.

drf-spectacular finds the extension by its base class. The document itself is made in `realtime.api.openapi`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeVar, cast

from django.conf import settings as django_settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter, extend_schema

from realtime.protocol.errors import ERRORS


class PlatformScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # its __init_subclass__ has no types
    target_class = "realtime.api.authentication.PlatformAuthentication"
    name = ["bearer", "session"]  # noqa: RUF012  (spectacular's own class attribute)

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, Any]]:
        return [
            {"type": "http", "scheme": "bearer", "description": "A token (JWT), or an API key: ser_<id>_<secret>."},
            {
                "type": "apiKey",
                "in": "cookie",
                "name": django_settings.SESSION_COOKIE_NAME,
                "description": "This site's own pages; with Origin and X-CSRFToken where something changes.",
            },
        ]

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list[str]]]:
        return [{"bearer": []}, {"session": []}]  # either, not both


F = TypeVar("F", bound=Callable[..., Any])

CODES: Final = "x-errors"
"""Where an operation keeps the codes it may answer with, until the document is made."""


def described(*codes: str, **options: Any) -> Callable[[F], F]:
    """`extend_schema`, with the codes of the table that the method may answer with, beside those that any may.

    It derives from the project's DEFAULT_SCHEMA_CLASS, which may be another library's; so ours is given beforehand.
    """
    assert set(codes) <= set(ERRORS), codes
    extend = extend_schema(extensions={CODES: list(codes)}, **options)

    def decorate(method: F) -> F:
        method.kwargs = {"schema": AutoSchema}  # type: ignore[attr-defined]  # where the library looks for it
        return extend(method)

    return decorate


# The annotation of `auth` has names of schemes in mind; what is given stands in the document as it is.
ANYBODY: Final = cast("Sequence[str]", [{"bearer": []}, {"session": []}, {}])
"""For `extend_schema(auth=…)`: without credentials, where the namespace grants it."""

KEY_ONLY: Final = cast("Sequence[str]", [{"bearer": []}])
"""An API key."""

MAX_INTEGER: Final = 2**53 - 1

VISIBLE: Final = "^[!-~]+$"
"""Visible ASCII, as client ids and ids of messages are."""


def whole(
    name: str, description: str = "", *, least: int = 0, most: int = MAX_INTEGER, **more: Any
) -> OpenApiParameter:
    """A parameter of the query that is an integer between bounds."""
    return OpenApiParameter(
        name, {"type": "integer", "minimum": least, "maximum": most}, description=description, **more
    )


LIMIT = whole("limit", "How many at most; default 100.", least=1, most=1000)


def text(
    name: str, description: str, pattern: str, most: int | None = None, place: Literal["query", "path"] = "query"
) -> OpenApiParameter:
    """A parameter that is a text of some alphabet."""
    kind = {"type": "string", "pattern": pattern, **({} if most is None else {"maxLength": most})}
    return OpenApiParameter(name, kind, place, required=place == "path", description=description)


NAME = OpenApiParameter(
    "name",
    str,
    OpenApiParameter.PATH,
    description="A channel, percent-encoded whole.",
    pattern="^[A-Za-z0-9_.:@=-]{1,200}$",
)
