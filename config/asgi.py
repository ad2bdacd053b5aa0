"""The ASGI application of the site: the platform's sockets in front, Django behind."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

# Before the next import: it fills the app registry, which the platform's models need.
django_application = get_asgi_application()

from django.conf import settings  # noqa: E402  (see above)

from dashboards import server  # noqa: E402
from realtime.asgi import get_application  # noqa: E402

application = get_application(django_application)

if settings.DEMO:
    server.start()
