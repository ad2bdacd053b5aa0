"""Addresses of the dashboards."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from dashboards import views

app_name = "dashboards"
urlpatterns: list[URLPattern | URLResolver] = [
    path("dashboards/", views.index, name="index"),
    path("dashboards/api/new", views.create, name="create"),
    path("dashboards/api/vote", views.vote, name="vote"),
    path("dashboards/api/of/<slug:slug>", views.change, name="change"),
    path("dashboards/api/of/<slug:slug>/share", views.share, name="share"),
    path("dashboards/shared/<str:share>/", views.shared, name="shared"),
    path("dashboards/shared/<str:share>/token", views.shared_token, name="shared-token"),
    path("dashboards/<slug:slug>/", views.page, name="page"),
    path("dashboards/<slug:slug>/token", views.token, name="token"),
]
