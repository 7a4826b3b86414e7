"""The trace that a request belongs to, from its header `traceparent`: W3C Trace Context, level 1.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from typing import NamedTuple

HEADER = b"traceparent"
# Version, trace id, parent id, flags. A later version may append fields.
_VALID = re.compile(
    rb"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})"
    rb"(?:-.*)?"
)
_SAMPLED = 1


class TraceContext(NamedTuple):
    """Where a request stands in a trace.

    Attributes:
        trace_id: of the whole trace, 32 hexadecimal digits.
        parent_id: of the caller's span, 16 hexadecimal digits.
        is_sampled: whether the caller records the trace.
    """

    trace_id: str
    parent_id: str
    is_sampled: bool


def parse_traceparent(value: bytes) -> TraceContext | None:
    """The trace of a request; None: the header is not valid, and there is no trace."""
    match = _VALID.fullmatch(value)
    if match is None or (value[:2] == b"00" and len(value) > match.end(3)):
        return None
    trace_id, parent_id, flags = (str(group, "ascii") for group in match.groups())
    return TraceContext(trace_id, parent_id, bool(int(flags, 16) & _SAMPLED))
