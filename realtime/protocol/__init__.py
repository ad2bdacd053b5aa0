"""The wire protocol, pure: frames in, decisions out. No Django, no asyncio, no clock, no randomness.

errors → names → codec → messages, positions → frames: each imports only from those before it. The specification is
docs/reference/protocol.md.
"""
