"""HAProxy and nginx with the files of deploy/, before servers that the test names, and promtool."""

from __future__ import annotations

import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tests.servers import Server

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
_UNPACKED = ROOT / ".seriatim" / "programs"


class ProgramMissing(Exception):
    """A program that deploy/ is for is not here."""


def program(path: str) -> str:
    """The machine's own program at `/path`, else the one that scripts/prepare.py unpacked."""
    for root in (Path("/"), _UNPACKED):
        if (root / path).exists():
            return str(root / path)
    raise ProgramMissing(f"/{path} is missing. Run: python3 scripts/prepare.py deploy")


def program_environment() -> dict[str, str]:
    """With the libraries that were unpacked beside the programs."""
    libraries = sorted({str(path.parent) for path in _UNPACKED.glob("usr/lib/*/*.so*")})
    return {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": ":".join(libraries)}


class Balancer(Server):
    """A load balancer on a free port of 127.0.0.1. Servers are given by their ports."""

    def __init__(self, sockets: Sequence[int], pages: Sequence[int]) -> None:
        super().__init__()
        self._pools = {"sockets": sockets, "sockjs": sockets, "pages": pages}

    def with_ports(self, text: str, keyword: str) -> str:
        """A file of pools as it is delivered, with our servers in the place of its own."""
        lines: list[str] = []
        ports: Sequence[int] = ()
        for line in text.splitlines():
            if line.startswith(f"{keyword} "):
                ports = self._pools[line.split()[1]]
            own = re.fullmatch(r"(\s+server(?: [a-z]+\d)?) 10\.0\.0\.\d+:8000(.*)", line)
            if own is None:
                lines.append(line)
            else:
                # All of ours take the place of the first.
                lines += [
                    f"{re.sub(r'[0-9]$', str(number), own[1])} 127.0.0.1:{port}{own[2]}"
                    for number, port in enumerate(ports, 1)
                ]
                ports = ()
        return "\n".join([*lines, ""])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        try:
            with closing(urllib.request.urlopen(f"{self.url}/healthz", timeout=5)) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


class HAProxy(Balancer):
    name = "haproxy"

    def prepare(self) -> None:
        text = (DEPLOY / "haproxy" / "pools.cfg").read_text()
        (self.folder / "pools.cfg").write_text(self.with_ports(text, "backend"))

    def command(self) -> list[str]:
        files = [str(DEPLOY / "haproxy" / "seriatim.cfg"), str(self.folder / "pools.cfg")]
        return [program("usr/sbin/haproxy"), "-db", *[part for file in files for part in ("-f", file)]]

    def environment(self) -> dict[str, str]:
        return {**program_environment(), "BIND": f"127.0.0.1:{self.port}"}


class Nginx(Balancer):
    name = "nginx"

    def prepare(self) -> None:
        for folder in ("seriatim", "temporary"):
            (self.folder / folder).mkdir()
        for name in ("maps.conf", "locations.conf"):
            shutil.copy(DEPLOY / "nginx" / name, self.folder / "seriatim")
        text = (DEPLOY / "nginx" / "pools.conf").read_text()
        (self.folder / "seriatim" / "pools.conf").write_text(self.with_ports(text, "upstream"))

    def command(self) -> list[str]:
        temporary = "".join(
            f"    {kind}_temp_path {self.folder}/temporary/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # Started by root it would become another user, for whom the temporary folder is closed.
        (self.folder / "nginx.conf").write_text(
            f"""{"user root;" if os.geteuid() == 0 else ""}
worker_processes 2;
daemon off;
pid {self.folder}/pid;
error_log {self.folder}/errors;
events {{ worker_connections 4096; }}
http {{
{temporary}    access_log off;
    include seriatim/maps.conf;
    include seriatim/pools.conf;
    server {{
        listen 127.0.0.1:{self.port};
        include seriatim/locations.conf;
    }}
}}
"""
        )
        files = ("-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), "-e", str(self.folder / "errors"))
        return [program("usr/sbin/nginx"), *files]

    def environment(self) -> dict[str, str]:
        return program_environment()
