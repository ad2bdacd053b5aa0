"""Settings of the test suite: those of the site, with fixed secrets and a database file of its own.

Every test process gets its own SQLite file (not memory: the log writer's thread has a connection of its own, and only
a file shows it the same rows), so that several runs can share one checkout.
"""

from __future__ import annotations

import os
import tempfile

# Before the import below. A developer's own environment and the demo's env file must not change a test run;
# only DATABASE_URL and REDIS_URL are taken from outside (`python -m tests.servers`).
os.environ["ENV_FILE"] = os.devnull
for _name in (
    "DEBUG",
    "DEMO",
    "WORKERS",
    "ALLOWED_HOSTS",
    "REALTIME_ORIGINS",
    "BEHIND_PROXY",
    "STATE_DIR",
    "LOG_LEVEL",
    "LOG_FORMAT",
):
    os.environ.pop(_name, None)
os.environ["SECRET_KEY"] = "only-for-tests-" + "k" * 40
os.environ["REALTIME_JWT_SECRET"] = "only-for-tests-" + "s" * 40
os.environ["ALLOWED_HOSTS"] = "testserver,localhost,127.0.0.1"
os.environ["COLLECTED_STATIC"] = "0"
os.environ["HTTPS"] = "0"

from config.settings import *  # noqa: E402, F403  (after the environment; the whole module is wanted)
from config.settings import DATABASES  # noqa: E402

if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # Kept as a module global: the folder goes when the process ends.
    _folder = tempfile.TemporaryDirectory(prefix="seriatim-test-", ignore_cleanup_errors=True)
    DATABASES["default"]["NAME"] = f"{_folder.name}/unused.sqlite3"
    DATABASES["default"]["TEST"] = {"NAME": f"{_folder.name}/test.sqlite3"}

# Strong hashes cost 0.2 s per login and prove nothing here.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
