"""The command `seriatim` (docs/reference/cli.md)."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from seriatim_client.cli import follow, load, publish
from seriatim_client.cli.credentials import rest
from seriatim_client.cli.output import INTERRUPTED, OK, USAGE, Usage, close_broken_pipe, compact, fail, parse_cap, say
from seriatim_client.cli.output import write as write_line
from seriatim_client.errors import SeriatimError

EPILOG = """\
exit status: 0 done, 1 refused, 2 wrong usage, 3 server away (try again later), 130 interrupted
environment: SERIATIM_URL, SERIATIM_TOKEN, SERIATIM_API_KEY
"""


def run() -> None:
    """The entry point of the command."""
    sys.exit(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and gives its exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except Usage as error:
        say(f"seriatim: {error}")
        return USAGE
    except SeriatimError as error:
        return fail(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return close_broken_pipe()


def token(options: argparse.Namespace) -> int:
    with rest(options) as api:
        issued = api.issue_token(options.client_id, parse_cap(options.cap), options.ttl)
    if options.style_out == "json":
        write_line(compact({"token": issued.token, "expires": issued.expires}))
    else:
        write_line(issued.token)
    return OK


def _in_loop(command: Callable[[argparse.Namespace], Any]) -> Callable[[argparse.Namespace], int]:
    def call(options: argparse.Namespace) -> int:
        status: int = asyncio.run(command(options))
        return status

    return call


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("connection")
    environ = os.environ.get
    group.add_argument("--url", default=environ("SERIATIM_URL", "http://127.0.0.1:8000"), help="the site")
    group.add_argument("--token", default=environ("SERIATIM_TOKEN"), metavar="JWT")
    group.add_argument("--api-key", default=environ("SERIATIM_API_KEY"), metavar="KEY", help="goes before --token")
    group.add_argument("--client", metavar="ID", help="with an API key: as which client")
    group.add_argument(
        "--timeout", type=_positive, default=15, metavar="S", help="for a request, or to connect (default 15)"
    )
    shown = common.add_argument_group("output")
    shown.add_argument("--quiet", "-q", action="store_true", help="no progress, no receipts")
    shown.add_argument("--verbose", "-v", action="store_true", help="tell the states of the line on standard error")
    shown.add_argument("--json", dest="style_out", action="store_const", const="json", default="text")

    parser = argparse.ArgumentParser(
        prog="seriatim",
        description="Publish to and follow channels of Seriatim.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, help: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help, parents=[common])
        made.set_defaults(run=run)
        return made

    made = command("publish", "store messages in a channel", publish.run)
    made.add_argument("channel")
    made.add_argument("data", nargs="?", metavar="DATA", help="- or nothing: standard input")
    made.add_argument("--lines", action="store_true", help="each line of standard input is a message")
    made.add_argument("--event", default="message")
    made.add_argument("--key", help="what the message is the newest state of")
    made.add_argument("--id", help="publishing it again stores nothing twice")
    made.add_argument("--id-from", metavar="FORM", help="field:NAME, line:PREFIX or hash: the same input, the same ids")
    made.add_argument("--text", dest="style", action="store_const", const="text", default="auto", help="data is text")
    made.add_argument("--strict", dest="style", action="store_const", const="json", help="data must be JSON")

    made = command("tail", "follow a channel", _in_loop(follow.tail))
    made.add_argument("channel")
    made.add_argument(
        "--from",
        dest="from_",
        default="head",
        metavar="POSITION",
        help="head (default), start, latest, EPOCH.SERIAL, rewind:N, since:MS or cursor:NAME",
    )
    made.add_argument("--until-idle", type=_positive, metavar="S", help="end when nothing came for so long")
    made.add_argument("--count", "-n", type=_whole, metavar="N", help="end after so many messages")
    made.add_argument("--window", type=int, metavar="N", help="how many messages may be in flight")
    made.add_argument("--data", dest="style_out", action="store_const", const="data", help="print the data alone")

    made = command("history", "print messages of the log", follow.history)
    made.add_argument("channel")
    made.add_argument("--after", type=int, metavar="SERIAL", help="rising from here")
    made.add_argument("--before", type=int, metavar="SERIAL", help="falling from here (default: the head)")
    made.add_argument("--limit", type=_whole, default=100, metavar="N", help="at most so many (default 100)")
    made.add_argument("--data", dest="style_out", action="store_const", const="data", help="print the data alone")

    made = command("token", "issue a token (with an API key)", token)
    made.add_argument("client_id", metavar="CLIENT")
    made.add_argument("--cap", metavar="JSON", help='as {"chat:*":["subscribe"]}; default: what the namespaces grant')
    made.add_argument("--ttl", type=_positive, metavar="S", help="seconds it is valid")

    made = command("load", "load a channel, and count what came of it", _in_loop(load.load))
    made.add_argument("channel")
    made.add_argument("--subscribers", type=_whole, default=10, metavar="N")
    made.add_argument("--publishers", type=_whole, default=1, metavar="N")
    made.add_argument("--rate", type=_positive, default=10, metavar="N", help="messages a second, of all together")
    made.add_argument("--duration", type=_positive, default=10, metavar="S")
    made.add_argument("--size", type=int, default=64, metavar="BYTES", help="padding of each message")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return value
