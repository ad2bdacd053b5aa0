"""Direct rooms, owners, mutes, the audit trail, files, and the index of what was said."""

from __future__ import annotations

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

import chat.models


class Migration(migrations.Migration):
    dependencies = [
        ("chat", "0002_namespace"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="AuditEntry",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("time", models.DateTimeField(default=django.utils.timezone.now)),
                ("by", models.CharField(max_length=128)),
                ("action", models.CharField(max_length=32)),
                (
                    "about",
                    models.CharField(blank=True, help_text="A client id, or #serial of a message.", max_length=128),
                ),
                ("detail", models.CharField(blank=True, max_length=500)),
            ],
            options={
                "verbose_name_plural": "audit entries",
                "ordering": ["-pk"],
            },
        ),
        migrations.CreateModel(
            name="IndexedMessage",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("serial", models.BigIntegerField()),
                ("client", models.CharField(max_length=128)),
                ("time", models.BigIntegerField()),
                ("thread", models.BigIntegerField(null=True)),
                ("deleted", models.BooleanField(default=False)),
                ("searched", models.TextField(help_text="The text, case folded.")),
                ("state", models.JSONField(help_text="The folded message.")),
            ],
        ),
        migrations.CreateModel(
            name="LastSeen",
            fields=[
                ("client", models.CharField(max_length=128, primary_key=True, serialize=False)),
                ("time", models.BigIntegerField(help_text="Unix milliseconds.")),
            ],
            options={
                "verbose_name_plural": "last seen",
            },
        ),
        migrations.CreateModel(
            name="Mention",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("serial", models.BigIntegerField()),
                ("client", models.CharField(max_length=128)),
            ],
        ),
        migrations.CreateModel(
            name="Mute",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("until", models.DateTimeField()),
            ],
            options={
                "ordering": ["until"],
            },
        ),
        migrations.CreateModel(
            name="Notice",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("serial", models.BigIntegerField()),
                ("state", models.JSONField()),
            ],
        ),
        migrations.CreateModel(
            name="RoomIndex",
            fields=[
                (
                    "room",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="index",
                        serialize=False,
                        to="chat.room",
                    ),
                ),
                ("epoch", models.CharField(blank=True, max_length=32)),
                ("through", models.BigIntegerField(default=0)),
                ("oldest", models.BigIntegerField(default=1)),
                ("last_time", models.BigIntegerField(default=0, help_text="Of the newest message; 0: none.")),
            ],
            options={
                "verbose_name_plural": "room indexes",
            },
        ),
        migrations.CreateModel(
            name="Seen",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("client", models.CharField(max_length=128)),
                ("through", models.BigIntegerField()),
            ],
            options={
                "verbose_name_plural": "seen",
            },
        ),
        migrations.CreateModel(
            name="Upload",
            fields=[
                (
                    "id",
                    models.CharField(default=chat.models.new_file_id, max_length=32, primary_key=True, serialize=False),
                ),
                ("client", models.CharField(max_length=128)),
                ("name", models.CharField(max_length=120)),
                ("type", models.CharField(max_length=64)),
                ("size", models.PositiveIntegerField(help_text="Bytes.")),
                ("width", models.PositiveIntegerField(null=True)),
                ("height", models.PositiveIntegerField(null=True)),
                ("file", models.FileField(max_length=200, upload_to="chat/%Y/%m")),
                ("created", models.DateTimeField(auto_now_add=True)),
                ("serial", models.BigIntegerField(help_text="Of the message that names it.", null=True)),
            ],
            options={
                "ordering": ["-created"],
            },
        ),
        migrations.RemoveConstraint(
            model_name="membership",
            name="chat_membership_role",
        ),
        migrations.RemoveConstraint(
            model_name="room",
            name="chat_room_kind",
        ),
        migrations.AddField(
            model_name="room",
            name="pair",
            field=models.CharField(
                blank=True,
                editable=False,
                help_text="Of a direct room: the primary keys of its two people, the lower first.",
                max_length=64,
                null=True,
                unique=True,
            ),
        ),
        migrations.AlterField(
            model_name="membership",
            name="role",
            field=models.CharField(
                choices=[("member", "member"), ("moderator", "moderator"), ("owner", "owner")],
                default="member",
                max_length=16,
            ),
        ),
        migrations.AlterField(
            model_name="room",
            name="kind",
            field=models.CharField(
                choices=[
                    ("public", "public: everybody who is known"),
                    ("private", "private: members only"),
                    ("direct", "direct: two people"),
                ],
                default="public",
                max_length=16,
            ),
        ),
        migrations.AddConstraint(
            model_name="membership",
            constraint=models.CheckConstraint(
                condition=models.Q(("role__in", ["member", "moderator", "owner"])), name="chat_membership_role"
            ),
        ),
        migrations.AddConstraint(
            model_name="room",
            constraint=models.CheckConstraint(
                condition=models.Q(("kind__in", ["public", "private", "direct"])), name="chat_room_kind"
            ),
        ),
        migrations.AddConstraint(
            model_name="room",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("kind", "direct"), ("pair__isnull", False)),
                    models.Q(models.Q(("kind", "direct"), _negated=True), ("pair__isnull", True)),
                    _connector="OR",
                ),
                name="chat_room_pair",
                violation_error_message="Direct rooms are made by the chat, for two people.",
            ),
        ),
        migrations.AddField(
            model_name="auditentry",
            name="room",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="audit", to="chat.room"),
        ),
        migrations.AddField(
            model_name="indexedmessage",
            name="room",
            field=models.ForeignKey(
                db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name="messages", to="chat.room"
            ),
        ),
        migrations.AddField(
            model_name="mention",
            name="room",
            field=models.ForeignKey(
                db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name="mentions", to="chat.room"
            ),
        ),
        migrations.AddField(
            model_name="mute",
            name="room",
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="mutes", to="chat.room"),
        ),
        migrations.AddField(
            model_name="mute",
            name="user",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="mutes", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddField(
            model_name="notice",
            name="room",
            field=models.ForeignKey(
                db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name="notices", to="chat.room"
            ),
        ),
        migrations.AddField(
            model_name="seen",
            name="room",
            field=models.ForeignKey(
                db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name="seen", to="chat.room"
            ),
        ),
        migrations.AddField(
            model_name="upload",
            name="room",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="uploads", to="chat.room"
            ),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["room", "-id"], name="chat_audit_room"),
        ),
        migrations.AddIndex(
            model_name="indexedmessage",
            index=models.Index(fields=["room", "thread", "serial"], name="chat_message_thread"),
        ),
        migrations.AddIndex(
            model_name="indexedmessage",
            index=models.Index(fields=["room", "time"], name="chat_message_time"),
        ),
        migrations.AddConstraint(
            model_name="indexedmessage",
            constraint=models.UniqueConstraint(fields=("room", "serial"), name="chat_message_unique"),
        ),
        migrations.AddIndex(
            model_name="mention",
            index=models.Index(fields=["room", "serial"], name="chat_mention_message"),
        ),
        migrations.AddConstraint(
            model_name="mention",
            constraint=models.UniqueConstraint(fields=("room", "client", "serial"), name="chat_mention_unique"),
        ),
        migrations.AddConstraint(
            model_name="mute",
            constraint=models.UniqueConstraint(fields=("room", "user"), name="chat_mute_unique"),
        ),
        migrations.AddConstraint(
            model_name="notice",
            constraint=models.UniqueConstraint(fields=("room", "serial"), name="chat_notice_unique"),
        ),
        migrations.AddConstraint(
            model_name="seen",
            constraint=models.UniqueConstraint(fields=("room", "client"), name="chat_seen_unique"),
        ),
        migrations.AddIndex(
            model_name="upload",
            index=models.Index(fields=["client", "created"], name="chat_upload_client"),
        ),
        migrations.AddIndex(
            model_name="upload",
            index=models.Index(fields=["room", "serial"], name="chat_upload_message"),
        ),
    ]
