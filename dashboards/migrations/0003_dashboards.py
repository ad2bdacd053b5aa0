"""Dashboards, widgets, links to them, and who has voted in the quiz."""

from __future__ import annotations

import django.core.validators
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import dashboards.models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("dashboards", "0002_pages_namespaces"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Dashboard",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "slug",
                    models.CharField(
                        help_text="Part of the address.",
                        max_length=64,
                        unique=True,
                        validators=[
                            django.core.validators.RegexValidator(
                                "\\A[a-z0-9][a-z0-9-]*\\Z", "Lower case letters, digits and hyphens."
                            )
                        ],
                    ),
                ),
                ("name", models.CharField(max_length=80)),
                ("about", models.CharField(blank=True, max_length=300)),
                (
                    "is_public",
                    models.BooleanField(
                        default=False, help_text="Whether everybody who logs in sees it.", verbose_name="public"
                    ),
                ),
                (
                    "speeds",
                    models.JSONField(
                        blank=True, default=dict, help_text="Name → label: what may stand for @speed in its channels."
                    ),
                ),
                ("created", models.DateTimeField(auto_now_add=True)),
                (
                    "owner",
                    models.ForeignKey(
                        blank=True,
                        help_text="Who may change it; empty: operators only.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="dashboards",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ["created", "pk"],
            },
        ),
        migrations.CreateModel(
            name="Share",
            fields=[
                (
                    "id",
                    models.CharField(
                        default=dashboards.models.new_share_id,
                        editable=False,
                        max_length=48,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("created", models.DateTimeField(auto_now_add=True)),
                (
                    "dashboard",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="shares", to="dashboards.dashboard"
                    ),
                ),
            ],
            options={
                "ordering": ["created"],
            },
        ),
        migrations.CreateModel(
            name="Vote",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("round", models.PositiveBigIntegerField()),
                ("client", models.CharField(max_length=128)),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("round", "client"), name="dashboards_one_vote")],
            },
        ),
        migrations.CreateModel(
            name="Widget",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("position", models.PositiveSmallIntegerField(default=0)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("line", "Line"),
                            ("area", "Area"),
                            ("gauge", "Gauge"),
                            ("number", "Number"),
                            ("bar", "Bars"),
                            ("table", "Table by key"),
                            ("feed", "Events"),
                            ("lights", "Status lights"),
                        ],
                        max_length=16,
                    ),
                ),
                ("title", models.CharField(max_length=80)),
                ("channel", models.CharField(max_length=200)),
                (
                    "field",
                    models.CharField(
                        blank=True,
                        help_text="Where in the data the value stands.",
                        max_length=200,
                        validators=[dashboards.models.validate_field],
                    ),
                ),
                ("options", models.JSONField(blank=True, default=dict)),
                (
                    "span",
                    models.PositiveSmallIntegerField(
                        default=6,
                        help_text="Columns, of twelve.",
                        validators=[
                            django.core.validators.MinValueValidator(2),
                            django.core.validators.MaxValueValidator(12),
                        ],
                    ),
                ),
                (
                    "dashboard",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="widgets", to="dashboards.dashboard"
                    ),
                ),
            ],
            options={
                "ordering": ["position", "pk"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("kind__in", ["line", "area", "gauge", "number", "bar", "table", "feed", "lights"])
                        ),
                        name="dashboards_widget_kind",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("span__gte", 2), ("span__lte", 12)), name="dashboards_widget_span"
                    ),
                ],
            },
        ),
    ]
