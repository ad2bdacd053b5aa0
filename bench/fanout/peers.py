"""Installs the peers that are compared with, into the state folder; nothing of the machine is changed, nothing is committed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bench.fanout.load import STATE

NGINX = STATE / "nginx"
NGINX_PACKAGES = ("nginx-light", "libnginx-mod-nchan")
MODULE = "usr/lib/nginx/modules/ngx_nchan_module.so"


class Missing(Exception):
    """A peer cannot be had here; says why, and what to do."""


def nginx() -> tuple[Path, Path]:
    """The program and its nchan module: the machine's own, else Debian's packages unpacked into the state folder."""
    for root in (Path("/"), NGINX):
        program, module = root / "usr/sbin/nginx", root / MODULE
        if program.exists() and module.exists():
            return program, module
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise Missing("nginx with nchan is missing, and this is no Debian. Install nginx and its nchan module.")
    print(f"Unpacking {' and '.join(NGINX_PACKAGES)} into {NGINX} …", flush=True)
    NGINX.mkdir(parents=True, exist_ok=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "cwd": NGINX}
    for attempt in (1, 2):
        done = subprocess.run(["apt-get", "download", "-q", *NGINX_PACKAGES], **quiet)  # type: ignore[call-overload]
        if done.returncode == 0:
            break
        if attempt == 1 and os.geteuid() == 0:
            subprocess.run(["apt-get", "update", "-q"], **quiet)  # type: ignore[call-overload]
    else:
        raise Missing(
            f"apt-get download {' '.join(NGINX_PACKAGES)} failed: {done.stderr.strip()[-300:]}\n"
            "Install them: sudo apt-get update && sudo apt-get install nginx-light libnginx-mod-nchan"
        )
    for package in NGINX.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package.name, "."], cwd=NGINX, check=True)
        package.unlink()
    return NGINX / "usr/sbin/nginx", NGINX / MODULE
