"""Addresses of the dashboards."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from dashboards import views

app_name = "dashboards"
urlpatterns: list[URLPattern | URLResolver] = [
    path("dashboards/", views.index, name="index"),
    path("dashboards/token", views.token, name="token"),
    path("dashboards/weather/", views.weather, name="weather"),
]
