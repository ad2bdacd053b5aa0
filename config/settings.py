"""Settings of the site. The only module that reads the environment.

Variables (docs/reference/settings.md describes them): SECRET_KEY, REALTIME_JWT_SECRET, ALLOWED_HOSTS, DATABASE_URL,
REDIS_URL, REALTIME_ORIGINS, TRUSTED_PROXIES, WORKERS, PORT, DEBUG, DEMO, HTTPS, BEHIND_PROXY, COLLECTED_STATIC,
LOG_LEVEL, LOG_FORMAT, STATE_DIR, ENV_FILE, REALTIME_IDENTITY_PROVIDERS, and REALTIME_… for numbers of the platform.
Without any of them the site does not start in production form, and says what is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import environ
from django.templatetags.static import static

from realtime.conf import keys
from realtime.layers import redis_layer

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()

# Everything that a run makes lies here: database, collected static files, generated secrets.
STATE_DIR = Path(env.str("STATE_DIR", default=str(BASE_DIR / ".seriatim")))

# `make run` writes its generated secrets there, so that `manage.py shell` afterwards sees the same site.
# Real environment variables win.
environ.Env.read_env(env.str("ENV_FILE", default=str(STATE_DIR / "env")))

DEBUG = env.bool("DEBUG", default=False)
# Demo accounts with printed passwords are made only where this is on. Apart from DEBUG, because DEBUG keeps every
# query in memory, and `make run` should show the program as it runs in production.
DEMO = env.bool("DEMO", default=DEBUG)
# Empty: Django refuses at first use, which still lets type checks and migrations run without secrets.
SECRET_KEY = env.str("SECRET_KEY", default="")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"] if DEBUG else [])
PORT = env.int("PORT", default=8000)

INSTALLED_APPS = [
    # First, so that its `runserver` counts, which serves sockets. No "daphne": it would install Twisted's reactor in
    # every command.
    "realtime",
    "unfold",  # before django.contrib.admin, whose templates it replaces
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular_sidecar",  # the files of /api/docs
    "channels",
    "chat",
    "dashboards",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "config.middleware.content_security_policy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# -- database ---------------------------------------------------------------------------------------------------------

DATABASES: dict[str, dict[str, Any]] = {"default": env.db("DATABASE_URL", default=f"sqlite:///{STATE_DIR}/db.sqlite3")}
_database = DATABASES["default"]
if _database["ENGINE"].endswith("sqlite3"):
    _database["OPTIONS"] = {
        # A deferred transaction that later writes fails with "database is locked" without waiting.
        "transaction_mode": "IMMEDIATE",
        "timeout": 5,
        # busy_timeout first: switching a new file to WAL may itself meet a lock.
        # synchronous=FULL: `published` means committed to disk, also when the power goes.
        "init_command": (
            "PRAGMA busy_timeout=5000; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; "
            "PRAGMA journal_size_limit=67108864"
        ),
    }
else:
    # No pool and no age: each HTTP request of Django runs in a thread of its own under ASGI, and kept connections
    # pile up there. The platform's own threads live long and hold their connection without Django's help.
    _database["CONN_MAX_AGE"] = 0
    # A PostgreSQL that is gone without a word must not hold anybody for the minutes that the kernel would wait.
    # Parameters of the URL go before these. What no option notices is cut off by DATABASE_TIMEOUT_S.
    _database["OPTIONS"] = {
        # Seconds until connected, with everything that belongs to it.
        "connect_timeout": 5,
        # Seconds of silence before the kernel probes the other end; seconds between probes; probes without an answer.
        "keepalives_idle": 20,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        # Milliseconds that sent bytes may stay unacknowledged.
        "tcp_user_timeout": 10_000,
        **_database.get("OPTIONS", {}),
    }

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# -- channel layer ----------------------------------------------------------------------------------------------------

# One Redis, several that share the channels, or Sentinels: docs/how-to/scale.md.
REDIS_URL = env.str("REDIS_URL", default="")
CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    "default": redis_layer(REDIS_URL) if REDIS_URL else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
}

# -- the platform -----------------------------------------------------------------------------------------------------

_jwt_secret = env.str("REALTIME_JWT_SECRET", default="")
REALTIME: dict[str, Any] = {
    "WORKERS": env.int("WORKERS", default=1),
    "ORIGINS": env.list("REALTIME_ORIGINS", default=[]),
    "SIGNING_KEYS": {"default": {"alg": "HS256", "secret": _jwt_secret}} if _jwt_secret else {},
    "TRUSTED_PROXIES": env.list("TRUSTED_PROXIES", default=[]),
    # The only one that has to be JSON: {"https://issuer": {"jwks": "https://…", "audience": "…"}}.
    "IDENTITY_PROVIDERS": env.json("REALTIME_IDENTITY_PROVIDERS", default={}),
}
# Every limit and interval of the platform by its own name, as in REALTIME_CONNECTIONS_MAX=5000.
for _name, _key in keys().items():
    if isinstance(_key.default, int) and (_variable := f"REALTIME_{_name}") in env.ENVIRON:
        REALTIME[_name] = env.int(_variable)

# -- accounts and pages -----------------------------------------------------------------------------------------------

PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "chat:index"
LOGOUT_REDIRECT_URL = "home"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = STATE_DIR / "static"
STATICFILES_DIRS = [
    BASE_DIR / "static",
    # The JavaScript SDK as it is written: pages import `../seriatim/index.js`.
    ("seriatim", BASE_DIR / "clients" / "js" / "src"),
]
# Hashed, compressed files from `collectstatic`; without them the files are served from the apps' own folders.
COLLECTED_STATIC = env.bool("COLLECTED_STATIC", default=not DEBUG)
WHITENOISE_USE_FINDERS = not COLLECTED_STATIC
WHITENOISE_AUTOREFRESH = not COLLECTED_STATIC
# Files that people gave to rooms. Not served from here: a view asks who may have them.
MEDIA_ROOT = STATE_DIR / "media"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "config.storage.HashedStaticFilesStorage"
        if COLLECTED_STATIC
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}

# The ramps of static/css/tokens.css: thread and stone.
UNFOLD = {
    "SITE_TITLE": "Seriatim",
    "SITE_HEADER": "Seriatim",
    "SITE_SUBHEADER": "Operator's desk",
    "SITE_ICON": lambda request: static("img/mark.svg"),
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("img/mark.svg")}],
    "DASHBOARD_CALLBACK": "realtime.admin.front",
    "STYLES": [lambda request: static("realtime/desk.css")],
    "SCRIPTS": [lambda request: static("realtime/desk.js")],
    "COLORS": {
        "primary": {
            "50": "#eef2fe",
            "100": "#e8edfd",
            "200": "#cdd8fb",
            "300": "#9db2ff",
            "400": "#7491fb",
            "500": "#4a6cf0",
            "600": "#2347c5",
            "700": "#1c3aa3",
            "800": "#182f80",
            "900": "#232b4a",
            "950": "#0e1433",
        },
        "base": {
            "50": "#f7f6f2",
            "100": "#efede7",
            "200": "#e2dfd7",
            "300": "#cfcbc1",
            "400": "#aaa69c",
            "500": "#6b675f",
            "600": "#57544d",
            "700": "#3a3833",
            "800": "#2f2e2a",
            "900": "#1a1a18",
            "950": "#111110",
        },
    },
    "SIDEBAR": {"navigation": "realtime.admin.navigation"},
}

# -- security ---------------------------------------------------------------------------------------------------------

HTTPS = env.bool("HTTPS", default=not (DEBUG or DEMO))
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
# Only behind a proxy that overwrites the header: anybody can send it otherwise.
if env.bool("BEHIND_PROXY", default=False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

_policy = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",  # covers wss: of the same host
    "manifest-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
# The admin's theme evaluates expressions in attributes and writes inline styles. Inline scripts stay forbidden there.
_policy_of_admin = {**_policy, "script-src": "'self' 'unsafe-eval'", "style-src": "'self' 'unsafe-inline'"}
CONTENT_SECURITY_POLICY = "; ".join(f"{name} {sources}" for name, sources in _policy.items())
CONTENT_SECURITY_POLICY_OF_ADMIN = "; ".join(f"{name} {sources}" for name, sources in _policy_of_admin.items())

# -- REST -------------------------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "EXCEPTION_HANDLER": "realtime.api.errors.exception_handler",
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
}

# -- logging ----------------------------------------------------------------------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "plain": {"()": "config.logs.PlainLines", "format": "{asctime} {levelname} {name} {message}", "style": "{"},
        "json": {"()": "config.logs.JsonLines"},
    },
    "filters": {"without_trace": {"()": "config.logs.WithoutTrace"}},
    "handlers": {
        # An unknown name is refused at start.
        "console": {"class": "logging.StreamHandler", "formatter": env.str("LOG_FORMAT", default="plain")}
    },
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {
        "django": {"handlers": ["console"], "level": "INFO", "propagate": False},
        "django.security.DisallowedHost": {"filters": ["without_trace"]},
        "realtime": {"handlers": ["console"], "level": env.str("LOG_LEVEL", default="INFO"), "propagate": False},
    },
}
