"""What a token allows: patterns of channel names and the operations on them.

Pure. Specification: docs/reference/protocol.md#capabilities.
"""

from __future__ import annotations

from typing import Final

OPERATIONS: Final = frozenset({"subscribe", "publish", "history", "presence", "signal", "admin"})

_NOTHING: Final[frozenset[str]] = frozenset()


class Capability:
    """An immutable set of grants. A pattern is an exact name, or a prefix ending in `*`; all that match add up."""

    __slots__ = ("_everywhere", "_exact", "_prefixes")

    def __init__(self, grants: dict[str, frozenset[str]]) -> None:
        """`grants`: pattern → operations. Use `parse` for what came from outside."""
        self._everywhere = grants.get("*", _NOTHING)
        self._exact = {pattern: ops for pattern, ops in grants.items() if not pattern.endswith("*") and ops}
        self._prefixes = tuple(
            (pattern[:-1], ops) for pattern, ops in grants.items() if pattern.endswith("*") and pattern != "*" and ops
        )

    @classmethod
    def parse(cls, obj: object) -> Capability:
        """From the shape of the claim `cap`; ValueError for another shape, with a sentence that says which.

        Operations that are not known are ignored, so that a newer token works on an older server. A `*` elsewhere
        than at the end is another shape: read as a name it would match nothing, without a word.
        """
        if not isinstance(obj, dict):
            raise ValueError("A capability must be an object of channel patterns.")
        grants: dict[str, frozenset[str]] = {}
        for pattern, operations in obj.items():
            if not isinstance(pattern, str) or "*" in pattern[:-1]:
                raise ValueError("A pattern must be a channel name, or a prefix ending in `*`.")
            if not isinstance(operations, list | tuple | set | frozenset):
                raise ValueError("The operations of a pattern must be an array of strings.")
            if not all(isinstance(operation, str) for operation in operations):
                raise ValueError("An operation must be a string.")
            grants[pattern] = OPERATIONS if "*" in operations else OPERATIONS.intersection(operations)
        return cls(grants)

    def operations(self, channel: str) -> frozenset[str]:
        """All that is allowed on this channel."""
        allowed = self._everywhere | self._exact.get(channel, _NOTHING)
        for prefix, operations in self._prefixes:
            if channel.startswith(prefix):
                allowed |= operations
        return allowed

    def allows(self, channel: str, op: str) -> bool:
        """Whether `op` is allowed on this channel. Not for `$` channels: no pattern reaches them."""
        if op in self._everywhere or op in self._exact.get(channel, _NOTHING):
            return True
        return any(op in operations and channel.startswith(prefix) for prefix, operations in self._prefixes)

    def covers(self, other: Capability) -> bool:
        """Whether `other` allows nothing that this does not: a key hands out no more than it has.

        Decided pattern by pattern; several narrow patterns that happen to add up to a wide one do not cover it.
        """
        if not other._everywhere <= self._everywhere:
            return False
        if not all(operations <= self.operations(name) for name, operations in other._exact.items()):
            return False
        return all(operations <= self._on_all_with(prefix) for prefix, operations in other._prefixes)

    def _on_all_with(self, prefix: str) -> frozenset[str]:
        """What is allowed on every name that begins with `prefix`."""
        allowed = self._everywhere
        for mine, operations in self._prefixes:
            if prefix.startswith(mine):
                allowed |= operations
        return allowed

    def grants(self) -> dict[str, list[str]]:
        """The shape of `cap` again, sorted: what `parse` reads back as an equal capability."""
        grants = {f"{prefix}*": sorted(operations) for prefix, operations in self._prefixes}
        grants |= {name: sorted(operations) for name, operations in self._exact.items()}
        if self._everywhere:
            grants["*"] = sorted(self._everywhere)
        return dict(sorted(grants.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Capability) and self.grants() == other.grants()

    def __hash__(self) -> int:
        return hash(tuple((pattern, tuple(operations)) for pattern, operations in self.grants().items()))

    def __repr__(self) -> str:
        return f"Capability({self.grants()!r})"
