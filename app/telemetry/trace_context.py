"""The trace that a request belongs to, from its header `traceparent`: W3C Trace Context, level 1.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from typing import NamedTuple

HEADER = b"traceparent"
# Version, trace id, parent id, flags. A later version may append fields.
_VALID = re.compile("([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]([0-9a-f])(-.*)?")
_NO_TRACE, _NO_PARENT = "0" * 32, "0" * 16
_SAMPLED = frozenset("13579bdf")  # the lowest bit of the flags


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
    match = _VALID.fullmatch(str(value, "latin-1"))
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or trace_id == _NO_TRACE or parent_id == _NO_PARENT:
        return None
    if version == "00" and more is not None:
        return None
    return TraceContext(trace_id, parent_id, flags in _SAMPLED)
