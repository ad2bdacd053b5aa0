"""The other shells: Server-Sent Events, streams, polls and posted frames, for clients that get no WebSocket through.

Raw ASGI in front of Django: under Django every open stream would hold a thread. Each request is a `Connection` like any
other, with another outgoing side (`links`), so hub, session, authorisation, limits and metrics are the same. `routing`
says what is served where; docs/reference/protocol.md#fallback-transports specifies it.
"""
