"""What a template needs to let its page connect, without inline script: fit for a strict Content-Security-Policy.

    {% load static seriatim %}
    {% seriatim_config %}
    <script type="module" src="{% static 'app/page.js' %}"></script>

The page's module then says `import { connect } from "../seriatim/page.js"` and calls it.
"""

from __future__ import annotations

from typing import Any

from django import template
from django.template import Context
from django.templatetags.static import static
from django.urls import NoReverseMatch, get_script_prefix, reverse
from django.utils.html import json_script
from django.utils.module_loading import import_string
from django.utils.safestring import SafeString

from realtime.conf import settings

register = template.Library()

ELEMENT_ID = "seriatim-config"
"""Where clients/js/src/page.js looks."""


@register.simple_tag(takes_context=True)
def seriatim_config(context: Context, **more: object) -> SafeString:
    """A `<script type="application/json">`, which browsers do not run: where to connect, where tokens come from, who is
    logged in. Further arguments are added under their names: `{% seriatim_config room=room.pk %}`.

    Without `realtime.urls` in the project there is no token's address, and the session cookie says who connects.
    """
    url = get_script_prefix().rstrip("/") + settings.WEBSOCKET_PATH
    config: dict[str, Any] = {"url": url, "sdk": seriatim_script()}
    try:
        config["tokenUrl"] = reverse("realtime:token")
    except NoReverseMatch:
        pass  # documented above
    request = context.get("request")
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated:
        config["clientId"] = import_string(settings.USER_CLIENT_ID)(user)
    return json_script({**config, **more}, ELEMENT_ID)


@register.simple_tag
def seriatim_script(module: str = "index.js") -> str:
    """The address of a module of the JavaScript SDK, as the project's static files storage names it."""
    return static(f"seriatim/{module}")
