from __future__ import annotations

from importlib import import_module

from django.apps import AppConfig


class ChatConfig(AppConfig):
    name = "chat"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Registers the namespace's hook. Without it every known client could read every room.
        import_module("chat.authorization")
        # And what tells rooms of accounts that are deleted, and what deletes files with their rows.
        import_module("chat.rooms")
        import_module("chat.uploads")
