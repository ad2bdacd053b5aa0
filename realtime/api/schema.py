"""What the OpenAPI document says of credentials and names. drf-spectacular finds the extension by its base class."""

from __future__ import annotations

from typing import Any

from django.conf import settings as django_settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import OpenApiParameter


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


NAME = OpenApiParameter(
    "name",
    str,
    OpenApiParameter.PATH,
    description="A channel, percent-encoded whole.",
    pattern="^[A-Za-z0-9_.:@=-]{1,200}$",
)
