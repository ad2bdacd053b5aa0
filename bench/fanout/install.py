"""Installs the peers into the state folder. Nothing of the machine is changed, and nothing of theirs is committed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bench.fanout.load import STATE

NGINX = STATE / "nginx"
NGINX_PACKAGES = ("nginx", "libnginx-mod-nchan")
NGINX_PROGRAM = "usr/sbin/nginx"
NGINX_MODULE = "usr/lib/nginx/modules/ngx_nchan_module.so"
NODE = STATE / "node"
NODE_PACKAGES = ("ws@8.23.0", "socket.io@4.8.4")


class Missing(Exception):
    """A peer cannot be had here; says why, and what to do."""


def nginx() -> tuple[Path, Path]:
    """The program and its nchan module: the machine's own, else Debian's packages, unpacked and not installed."""
    for root in (Path("/"), NGINX):
        program, module = root / NGINX_PROGRAM, root / NGINX_MODULE
        if program.exists() and module.exists():
            return program, module
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise Missing("nginx with nchan is missing, and this is no Debian. Install nginx and its nchan module.")
    print(f"Unpacking {' and '.join(NGINX_PACKAGES)} into {NGINX} …", flush=True)
    NGINX.mkdir(parents=True, exist_ok=True)
    failed = _download()
    if failed and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-q"], capture_output=True)
        failed = _download()
    if failed:
        raise Missing(
            f"apt-get download {' '.join(NGINX_PACKAGES)} failed: {failed[-300:]}\n"
            f"As root: apt-get update && apt-get install {' '.join(NGINX_PACKAGES)}"
        )
    for package in NGINX.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package.name, "."], cwd=NGINX, check=True)
        package.unlink()
    program = NGINX / NGINX_PROGRAM
    if not program.exists() or subprocess.run([program, "-v"], capture_output=True).returncode:
        raise Missing(f"{program} does not run here. As root: apt-get install {' '.join(NGINX_PACKAGES)}")
    return program, NGINX / NGINX_MODULE


def _download() -> str:
    """What apt said when it failed, else nothing."""
    done = subprocess.run(["apt-get", "download", "-q", *NGINX_PACKAGES], cwd=NGINX, capture_output=True, text=True)
    return done.stderr.strip() or "no message" if done.returncode else ""


def node() -> str:
    """The node program, after its packages are in place; NODE_PATH has to be `NODE/node_modules`."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        raise Missing("node and npm are missing. Install Node.js 18 or newer.")
    wanted = " ".join(NODE_PACKAGES)
    stamp = NODE / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Installing {wanted} into {NODE} …", flush=True)
        NODE.mkdir(parents=True, exist_ok=True)
        flags = ["--no-save", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(
            [npm, "install", "--prefix", str(NODE), *flags, *NODE_PACKAGES], capture_output=True, text=True
        )
        if done.returncode:
            raise Missing(f"npm could not install {wanted}: {done.stderr.strip()[-300:]}")
        stamp.write_text(wanted)
    return program


def redis() -> None:
    """Looks for a Redis that was started by others."""
    if "REDIS_URL" not in os.environ:
        raise Missing("There is no REDIS_URL. Begin the command with: python -m tests.servers redis -- …")
