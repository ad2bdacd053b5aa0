"""Addresses of the whole site: admin, login, the applications, and the platform's own (API, health, fallbacks)."""

from __future__ import annotations

from django.conf import settings
from django.contrib import admin
from django.contrib.auth import views as auth_views
from django.urls import include, path

from config import pages

urlpatterns = [
    path("", pages.home, name="home"),
    path("cursors/", pages.cursors, name="cursors"),
    path("console/", pages.console, name="console"),
    path("pages/token", pages.token, name="page-token"),
    path("pages/mint", pages.mint, name="page-mint"),
    path("admin/", admin.site.urls),
    path(
        "accounts/login/",
        # The demo's passwords are no secret: the page shows them.
        auth_views.LoginView.as_view(redirect_authenticated_user=True, extra_context={"demo": settings.DEMO}),
        name="login",
    ),
    path("accounts/logout/", pages.LogOut.as_view(), name="logout"),
    path("", include("chat.urls")),
    path("", include("dashboards.urls")),
    path("", include("realtime.urls")),
]
