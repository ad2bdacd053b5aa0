"""The three groups of the operator's desk: who looks, who operates, who makes the rules.

Made after migrating where they do not exist; what an operator changes of them stays. Nobody is in them at first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from django.apps import apps as global_apps
from django.contrib.auth.management import create_permissions

LABEL: Final = "realtime"


def _looks(codename: str) -> bool:
    return codename.startswith("view_")


def _operates(codename: str) -> bool:
    return _looks(codename) or codename in ("operate", "add_revocation", "delete_revocation")


GROUPS: Final[dict[str, Callable[[str], bool]]] = {
    "viewer": _looks,
    "operator": _operates,
    "owner": lambda codename: True,
}
"""Names, and which of the platform's permissions each has."""


def make_groups(*, using: str = "default", apps: Any = global_apps, **_: Any) -> None:
    """Makes those that do not exist."""
    try:
        group_model = apps.get_model("auth", "Group")
        permission_model = apps.get_model("auth", "Permission")
        apps.get_model(LABEL, "LiveConnection")
    except LookupError:
        return  # a project without them, or migrated back to before
    have = set(group_model.objects.using(using).filter(name__in=GROUPS).values_list("name", flat=True))
    missing = [name for name in GROUPS if name not in have]
    if not missing:
        return
    # The app that makes them may come behind this one.
    create_permissions(global_apps.get_app_config(LABEL), verbosity=0, interactive=False, using=using, apps=apps)
    permissions = list(permission_model.objects.using(using).filter(content_type__app_label=LABEL))
    for name in missing:
        group = group_model.objects.using(using).create(name=name)
        group.permissions.set([each for each in permissions if GROUPS[name](each.codename)])
