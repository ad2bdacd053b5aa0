"""The delivered configurations of HAProxy and nginx: valid, and before servers that tell what came to them."""

from __future__ import annotations

import base64
import datetime
import hashlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from realtime.transports import routing
from tests.balancers import DEPLOY, Balancer, HAProxy, Nginx, program, program_environment
from tests.conftest import MS, eventually
from tests.e2e.wire import handshake_bytes

KINDS = {"haproxy": HAProxy, "nginx": Nginx}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with site.crt, site.key and both in site.pem."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "site.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "site.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "site.pem").write_bytes((folder / "site.crt").read_bytes() + (folder / "site.key").read_bytes())
    return folder


def test_haproxy_takes_the_files_as_delivered_with_and_without_tls(certificate: Path) -> None:
    for bind in ({}, {"BIND": f":443 ssl crt {certificate}/site.pem alpn h2,http/1.1"}):
        files = [DEPLOY / "haproxy" / name for name in ("seriatim.cfg", "pools.cfg")]
        said = subprocess.run(
            [program("usr/sbin/haproxy"), "-c", "-f", files[0], "-f", files[1]],
            env={**program_environment(), **bind},
            capture_output=True,
            text=True,
            check=False,
        )
        assert said.returncode == 0, said.stderr
        assert "WARNING" not in said.stderr


def ipv6() -> bool:
    """Whether this machine has it: nginx opens what it listens on, also to test a configuration."""
    try:
        with socket.socket(socket.AF_INET6):
            return True
    except OSError:
        return False


def test_what_balancers_log_has_no_queries() -> None:
    """An EventSource has its ticket there."""
    haproxy, site = (DEPLOY / "haproxy" / "seriatim.cfg").read_text(), (DEPLOY / "nginx" / "site.conf").read_text()
    assert "option httplog\n" not in haproxy and "%r" not in haproxy.partition("frontend")[0].replace("%rc", "")
    assert re.findall(r"access_log \S+ (\w+);", site) == ["seriatim"] * site.count("\nserver {")
    format_ = (DEPLOY / "nginx" / "maps.conf").read_text().partition("log_format seriatim")[2].partition(";")[0]
    assert "$uri" in format_ and not re.search(r"\$(request|request_uri|args|query_string|http_referer)\b", format_)


def test_nginx_takes_the_files_as_delivered(certificate: Path, tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "nginx", tmp_path / "seriatim")
    for name in ("site.crt", "site.key"):
        shutil.copy(certificate / name, tmp_path / "seriatim")
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log {tmp_path}/errors; events {{}} http {{ access_log off;"
        + "".join(f" {k}_temp_path {tmp_path}/{k};" for k in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        # Ports below 1024 are not everybody's to try.
        + " include seriatim/site.conf; }\n"
    )
    site = tmp_path / "seriatim" / "site.conf"
    text = site.read_text().replace(":80;", ":8080;").replace(" 80;", " 8080;").replace("443", "8443")
    text = text.replace("/var/log/nginx", str(tmp_path))
    if not ipv6():
        text = "".join(line for line in text.splitlines(keepends=True) if "listen [::]" not in line)
    site.write_text(text)
    said = subprocess.run(
        [program("usr/sbin/nginx"), "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "errors"],
        env=program_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert "[warn]" not in said.stderr, said.stderr


# ---------------------------------------------------------------------- before servers


class Teller(ThreadingHTTPServer):
    """Answers every request with who it is and what came; 503 at /readyz while not `ready`."""

    daemon_threads = True

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), TellerHandler)
        self.name = name
        self.ready = True
        self.asked = 0
        """How often it was asked whether it is ready."""
        self.hosts: set[str | None] = set()
        """What those called it."""
        self.held = threading.Event()
        """Set when streams may end."""

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: balancers hang up as they like, and a fault shows in the answers."""


class TellerHandler(BaseHTTPRequestHandler):
    server: Teller
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        teller = self.server
        if self.path == "/readyz":
            teller.asked += 1
            teller.hosts.add(self.headers["Host"])
            self._answer(200 if teller.ready else 503)
        elif self.path == "/api/v1/events":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"8\r\ndata: 1\n\r\n")
            teller.held.wait(20)
            self.wfile.write(b"0\r\n\r\n")
        elif self.headers["Upgrade"] == "websocket":
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            # HAProxy looks whether it is right (RFC 6455 §4.2.2).
            key = (self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key).digest()).decode())
            self.send_header("X-Teller", json.dumps([teller.name, self._headers()]))
            self.end_headers()
            self.rfile.read(1)  # until the other end closes
            self.close_connection = True
        else:
            self._answer(200)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self._answer(200)

    def _answer(self, status: int) -> None:
        body = json.dumps([self.server.name, self._headers()]).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _headers(self) -> dict[str, str]:
        """By names in lower case; headers of one name are one list, in order (RFC 9110 §5.3)."""
        found: dict[str, str] = {}
        for name, value in self.headers.items():
            known = found.get(name.lower())
            found[name.lower()] = value if known is None else f"{known}, {value}"
        return found

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def tellers() -> Iterator[dict[str, Teller]]:
    made = {name: Teller(name) for name in ("sockets1", "sockets2", "sockets3", "pages1")}
    for teller in made.values():
        threading.Thread(target=teller.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield made
    for teller in made.values():
        teller.held.set()
        teller.shutdown()
        teller.server_close()


@pytest.fixture(scope="module", params=KINDS)
def balancer(request: pytest.FixtureRequest, tellers: dict[str, Teller]) -> Iterator[Balancer]:
    for teller in tellers.values():
        teller.held.clear()
    with KINDS[request.param]([tellers[f"sockets{n}"].port for n in (1, 2, 3)], [tellers["pages1"].port]) as made:
        yield made
        for teller in tellers.values():
            teller.held.set()


def ask(balancer: Balancer, path: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if answer.status == 200 else None
    finally:
        connection.close()


def open_socket(balancer: Balancer) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """A WebSocket that stays open: the connection, who answered, and what came to it."""
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=20)
    connection.connect()
    connection.sock.sendall(handshake_bytes(balancer.port))
    head = b""
    while b"\r\n\r\n" not in head:
        got = connection.sock.recv(4096)
        assert got, head
        head += got
    assert head.startswith(b"HTTP/1.1 101 "), head
    lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line)
    name, headers = json.loads({key.lower(): value for key, value in lines.items()}["x-teller"])
    return connection, name, headers


@pytest.mark.parametrize(
    ("path", "pool"),
    [
        ("/", "pages"),
        ("/api/v1/channels/chat%3Alobby/messages", "pages"),
        ("/static/x.js", "pages"),
        ("/ws/other", "pages"),
        ("/sockjsx", "pages"),
        # What the program serves there; streams end when the test says so, and have one of their own.
        *((f"/api/v1{path}", "sockets") for path in routing.PATHS if path != "/events"),
        ("/sockjs", "sockets"),
        ("/sockjs/info", "sockets"),
        ("/sockjs/websocket", "sockets"),
        ("/sockjs/000/abcdefgh/xhr_streaming", "sockets"),
        ("/api/v1/channels/chat%3Aa%2Fb/events?from=start", "sockets"),
    ],
)
def test_each_path_has_its_pool(balancer: Balancer, path: str, pool: str) -> None:
    status, (name, _) = ask(balancer, path, "POST" if path.endswith("frames") else "GET")
    assert (status, name.rstrip("123")) == (200, pool)


def test_requests_of_a_sockjs_session_come_to_one_server_and_sessions_to_all(balancer: Balancer) -> None:
    placed: dict[str, set[str]] = {}
    for session in (f"session{number}" for number in range(24)):
        for style in ("xhr", "xhr_send", "eventsource"):
            _, (name, _) = ask(balancer, f"/sockjs/00{len(style) % 10}/{session}/{style}")
            placed.setdefault(session, set()).add(name)
    assert all(len(names) == 1 for names in placed.values())
    assert set().union(*placed.values()) == {"sockets1", "sockets2", "sockets3"}


def test_metrics_are_not_for_outsiders(balancer: Balancer) -> None:
    assert ask(balancer, "/metrics")[0] == 404


def test_servers_hear_who_asks_and_how(balancer: Balancer) -> None:
    given = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https", "Host": "example.org:8443"}
    _, (_, headers) = ask(balancer, "/", **given)
    assert headers["host"] == "example.org:8443"
    assert headers["x-forwarded-proto"] == "http", "a client says what it likes"
    assert headers["x-forwarded-for"].split(", ")[-1] == "127.0.0.1", "the last one is the balancer's own word"


def test_a_piece_of_a_stream_comes_before_the_next_one(balancer: Balancer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=10)
    try:
        connection.request("GET", "/api/v1/events", headers={"Accept-Encoding": "gzip"})
        assert connection.getresponse().read1(100) == b"data: 1\n"
    finally:
        connection.close()


def test_sockets_are_upgraded_and_go_where_the_fewest_are(balancer: Balancer, tellers: dict[str, Teller]) -> None:
    opened = []
    try:
        for _ in range(9):
            opened.append(open_socket(balancer))
        names = [name for _, name, _ in opened]
        assert sorted(names.count(f"sockets{number}") for number in (1, 2, 3)) == [3, 3, 3]
        headers = opened[0][2]
        assert headers["upgrade"].lower() == "websocket"
        assert headers["host"] == f"127.0.0.1:{balancer.port}"
        assert headers["x-forwarded-for"] == "127.0.0.1"
        # Those of one server leave: the next ones go there.
        for connection, name, _ in opened:
            if name == "sockets2":
                connection.close()
        time.sleep(100 * MS)  # until the balancer has seen it
        more = [open_socket(balancer) for _ in range(3)]
        opened += more
        assert {name for _, name, _ in more} == {"sockets2"}
    finally:
        for connection, _, _ in opened:
            connection.close()


def test_haproxy_sends_nobody_to_a_server_that_is_not_ready_and_cuts_nobody_off(tellers: dict[str, Teller]) -> None:
    leaving = tellers["sockets1"]
    for teller in tellers.values():
        teller.held.clear()
    with HAProxy([leaving.port, tellers["sockets2"].port], [tellers["pages1"].port]) as balancer:
        eventually(lambda: leaving.asked > 0, 10_000 * MS)
        assert leaving.hosts == {"localhost"}
        staying = next(one for one in iter(lambda: open_socket(balancer), None) if one[1] == "sockets1")
        try:
            leaving.ready = False
            seen = leaving.asked
            eventually(lambda: leaving.asked >= seen + 3, 10_000 * MS)
            assert {ask(balancer, "/api/v1/poll")[1][0] for _ in range(6)} == {"sockets2"}
            staying[0].sock.settimeout(0.2)
            with pytest.raises(TimeoutError):  # nothing comes, an end neither
                staying[0].sock.recv(1)
        finally:
            leaving.ready = True
            staying[0].close()
            for teller in tellers.values():
                teller.held.set()
