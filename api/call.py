"""A request, and what is known of it by now."""

import re
import time
from functools import cached_property
from random import getrandbits
from typing import TYPE_CHECKING, Any, cast

from flask import Request, request

if TYPE_CHECKING:
    from api.auth import Principal

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}\Z")


class Call(Request):
    """The application's class of requests. `started` is a `time.perf_counter()`."""

    principal: "Principal | None" = None
    body_broke_off = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.started = time.perf_counter()
        #: What the log line says of this request beyond what it says of all.
        self.said: dict[str, Any] = {}

    @cached_property
    def blueprints(self) -> list[str]:
        """As Flask's, but found out once: it is asked for three times a request."""
        return super().blueprints

    @cached_property
    def identity(self) -> str:
        """This request's id: the caller's X-Request-Id if it is a clean one, else one of ours."""
        offered = self.headers.get("X-Request-Id")
        return offered if offered and _REQUEST_ID.match(offered) else _new_request_id()


def this_call() -> Call:
    """The request that this thread is at. Not Flask's proxy for it: each look through one has its price."""
    return cast(Call, request._get_current_object())  # type: ignore[attr-defined]


def say(**fields: Any) -> None:
    """Add to this request's log line. Only ids that the service made itself, and words of its own."""
    this_call().said |= fields


def request_id() -> str:
    """This request's id."""
    return this_call().identity


def _new_request_id() -> str:
    # A UUID of version 4 (RFC 9562, section 5.4) for what has to be unique, not secret: uuid4() asks the
    # kernel each time, and gives the GIL away for it.
    digits = f"{getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"
