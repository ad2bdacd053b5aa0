"""What TLS in the server costs: CPU of a broadcast beside the same broadcast on a plain socket.

    python -m bench.tls [--subscribers 300] [--messages 300]

Two servers in turns on one core, one with TLS by Twisted and OpenSSL, as an `ssl:` endpoint of Daphne has it. Plain
sockets are written to by the system's call alone; over TLS each subscriber's bytes are encrypted for it, in the
transport. Messages of 200 bytes are published one by one; a turn ends when every subscriber has every byte.
"""

from __future__ import annotations

import argparse
import datetime
import ssl
import statistics
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench import machine
from bench.deflate import TURNS, Audience
from bench.machine import Row
from bench.publish import DATA


def _certificate(path: Path) -> Path:
    """A key and a certificate for localhost that it signs itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
        now + datetime.timedelta(days=1)
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(pem + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


def measure(subscribers: int = 300, messages: int = 300) -> list[Row]:
    """The row of the table."""
    machine.pin_generator()
    data: list[object] = [DATA] * messages
    with tempfile.TemporaryDirectory(prefix="seriatim-bench-") as folder:
        pem = _certificate(Path(folder) / "localhost.pem")
        context = ssl.create_default_context(cafile=str(pem))
        with machine.running("bench.site") as plain, machine.running("bench.site", "--certificate", str(pem)) as tls:
            before = [plain.rss_bytes(), tls.rss_bytes()]
            audiences = {
                "floor": Audience(plain, "plain", subscribers, None),
                "ours": Audience(tls, "tls", subscribers, None, context),
            }
            grown = [plain.rss_bytes() - before[0], tls.rss_bytes() - before[1]]
            figures = machine.interleaved(
                TURNS, {name: lambda each=each: each.broadcast(data) for name, each in audiences.items()}
            )
            for audience in audiences.values():
                audience.leave()
    ratio = statistics.median(o / f for f, o in zip(figures["floor"], figures["ours"], strict=True))
    per = {name: [1000 * ms / subscribers for ms in found] for name, found in figures.items()}
    return [
        Row(
            f"µs of CPU a delivery over TLS, {subscribers} subscribers, 200 bytes (floor: plain)",
            machine.spread(per["floor"], ".1f"),
            machine.spread(per["ours"], ".1f"),
            f"{ratio:.1f}",
            "",
        ),
        Row(
            "KB of a connection over TLS (floor: plain)",
            f"{grown[0] / subscribers / 1000:.0f}",
            f"{grown[1] / subscribers / 1000:.0f}",
            "",
            "",
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subscribers", type=int, default=300)
    parser.add_argument("--messages", type=int, default=300)
    print(machine.table(measure(**vars(parser.parse_args()))))
