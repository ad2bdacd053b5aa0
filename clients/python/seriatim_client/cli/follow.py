"""`seriatim tail` and `seriatim history`."""

from __future__ import annotations

import asyncio
from argparse import Namespace

from seriatim_client.cli.credentials import connected, line, rest
from seriatim_client.cli.output import OK, Progress, compact, message_line, say, write
from seriatim_client.line_state import State
from seriatim_client.names import check_channel
from seriatim_client.positions import Cursor, Position, parse_from


async def tail(options: Namespace) -> int:
    from_ = parse_from(options.from_)
    check_channel(options.channel)
    # What the client names itself needs no more than `subscribe`.
    reads_log = from_ != "head" and not isinstance(from_, (Position, Cursor))
    client = line(options, ["subscribe", "history"] if reads_log else ["subscribe"])
    channel = client.channel(options.channel, from_, options.window)
    count = 0
    told = client.on_state
    with Progress(options.quiet, beside_output=True) as progress:

        def state(state: State) -> None:
            if told is not None:
                told(state)
            progress.show(f"{state.name.value} · {count} messages · {channel.behind} to go", now=True)

        def discontinuity(first: int | None, last: int | None, reason: str) -> None:
            which = "the log is another one" if first is None else f"serials {first} to {last} cannot be had"
            with progress.above():
                say(f"seriatim: {which} ({reason})")
                if options.style_out == "json":
                    fields = {"type": "skipped", "channel": channel.name, "from": first, "to": last, "reason": reason}
                    write(compact(fields))

        client.on_state = state
        channel.on_discontinuity = discontinuity
        try:
            await connected(client, options)
            await channel.attach()
            messages = aiter(channel)
            while options.count is None or count < options.count:
                try:
                    async with asyncio.timeout(options.until_idle):
                        message = await anext(messages)
                except TimeoutError:
                    # Idle is when there is nothing more, not when the line is away.
                    if channel.behind == 0 and channel.state == "attached":
                        break
                    continue
                except StopAsyncIteration:
                    break
                write(message_line(message, options.style_out))
                channel.processed_through(message.serial)
                count += 1
                progress.show(f"{client.state.name.value} · {count} messages · {channel.behind} to go")
        finally:
            await client.close()
            if channel.position is not None and options.verbose:
                say(f"seriatim: to go on: --from {channel.position}")
    return OK


def history(options: Namespace) -> int:
    check_channel(options.channel)
    with rest(options) as api, Progress(options.quiet, beside_output=True) as progress:
        messages = api.messages(options.channel, after=options.after, before=options.before, limit=options.limit)
        for count, message in enumerate(messages, 1):
            write(message_line(message, options.style_out))
            progress.show(f"{count} messages")
    return OK
