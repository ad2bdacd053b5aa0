"""Who the command is, from its options and the environment.

The WebSocket takes tokens only. With an API key the command issues itself a token whenever the client asks for one.
"""

from __future__ import annotations

import asyncio
import socket
from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence

from seriatim_client.cli.output import Usage, say
from seriatim_client.client import Client
from seriatim_client.codes import ERRORS
from seriatim_client.errors import SeriatimError
from seriatim_client.line_state import State
from seriatim_client.rest import AsyncRest, Rest

TOKEN_TTL_S = 3600


def rest(options: Namespace) -> Rest:
    """The HTTP API, with the API key or the token."""
    try:
        return Rest(options.url, options.api_key or options.token, timeout_s=options.timeout)
    except ValueError as error:
        raise Usage(str(error)) from None


def token_function(
    options: Namespace, operations: Sequence[str], client: str | None = None
) -> Callable[[], Awaitable[str | None]]:
    """Gives a token for `client`, or for the name of this host: for these operations on the channel, and no more."""
    name = client or options.client or f"cli-{socket.gethostname()}"[:128]

    async def fetch() -> str | None:
        if options.token or not options.api_key:
            token: str | None = options.token
            return token
        async with AsyncRest(options.url, options.api_key, timeout_s=options.timeout) as api:
            return (await api.issue_token(name, {options.channel: operations}, TOKEN_TTL_S)).token

    return fetch


def line(options: Namespace, operations: Sequence[str], client: str | None = None) -> Client:
    """A client of the WebSocket that tells on standard error what goes wrong."""
    try:
        made = Client(options.url, token=token_function(options, operations, client))
    except ValueError as error:
        raise Usage(str(error)) from None

    def state(state: State) -> None:
        if options.verbose:
            say(f"seriatim: {state.name.value}{f': {state.reason}' if state.reason else ''}")

    made.on_state = state
    made.on_error = lambda error: say(f"seriatim: {error}") if options.verbose else None
    return made


async def connected(client: Client, options: Namespace) -> None:
    """Connects, or raises what stood in the way when `--timeout` is over.

    Only the first time: a line that was up once is waited for.
    """
    why: list[SeriatimError] = []
    told = client.on_error

    def note(error: SeriatimError) -> None:
        why.append(error)
        if told is not None:
            told(error)

    client.on_error = note
    client.connect()
    try:
        async with asyncio.timeout(options.timeout):
            await client.connected()
    except TimeoutError:
        said = client.state.reason or "no answer"
        raise SeriatimError(
            "unreachable",
            f"No connection to {client.url} in {options.timeout:g} s: {said}.",
            remedy="Check the address and whether the server runs.",
        ) from None
    except SeriatimError as error:
        # The server's own words say more than that the line was given up.
        known = [each for each in why if each.code in ERRORS]
        raise (known[-1] if known else error) from None
    finally:
        client.on_error = told
