"""Answers that the simulated API server gives in place of the true one, on command."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tests.fakes.kube.http import Answer, HangUp
from tests.fakes.kube.patch import JsonObject
from tests.fakes.kube.rest import Target
from tests.fakes.kube.rules import ApiError


@dataclass(frozen=True, slots=True)
class Refuse:
    """A Status with this code, before anything is looked at."""

    code: int
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection closes without an answer; `is_carried_out` says whether the request counted."""

    is_carried_out: bool = False


@dataclass(frozen=True, slots=True)
class Garble:
    """Code 200 and a body that is not what was asked for, as from a proxy in between."""

    body: bytes


Fault: TypeAlias = Refuse | Drop | Garble


@dataclass(frozen=True, slots=True)
class _Pending:
    fault: Fault
    verb: str | None
    resource: str | None

    def fits(self, target: Target) -> bool:
        return self.verb in (None, target.verb) and self.resource in (None, target.resource)


class Faults:
    """Faults waiting for the requests that they are meant for, first come first served.

    A fault without a verb or without a resource is for every one of them.
    """

    def __init__(self) -> None:
        # Asked where no fault is waiting, for faults by chance or by the state of things.
        self.choose: Callable[[Target], Fault | None] | None = None
        self._lock = threading.Lock()
        self._pending: list[_Pending] = []

    def refuse(
        self,
        code: int,
        *,
        count: int = 1,
        retry_after_s: int | None = None,
        verb: str | None = None,
        resource: str | None = None,
    ) -> None:
        self._add(Refuse(code, retry_after_s), count, verb, resource)

    def drop(
        self,
        *,
        count: int = 1,
        is_carried_out: bool = False,
        verb: str | None = None,
        resource: str | None = None,
    ) -> None:
        self._add(Drop(is_carried_out), count, verb, resource)

    def garble(
        self,
        body: bytes = b"<html>try again",
        *,
        count: int = 1,
        verb: str | None = None,
        resource: str | None = None,
    ) -> None:
        self._add(Garble(body), count, verb, resource)

    def _add(self, fault: Fault, count: int, verb: str | None, resource: str | None) -> None:
        with self._lock:
            self._pending += [_Pending(fault, verb, resource)] * count

    def clear(self) -> None:
        with self._lock:
            self._pending.clear()

    def take(self, target: Target) -> Fault | None:
        with self._lock:
            for index, pending in enumerate(self._pending):
                if pending.fits(target):
                    return self._pending.pop(index).fault
        return None if self.choose is None else self.choose(target)


def answer_with(fault: Fault) -> Answer | HangUp:
    match fault:
        case Refuse(code, retry_after_s):
            details: JsonObject = {}
            if retry_after_s is not None:
                details["retryAfterSeconds"] = retry_after_s
            error = ApiError(code, "the server is told to refuse this request", details=details)
            return Answer.of(code, error.status, retry_after_s)
        case Garble(body):
            return Answer(200, body)
        case Drop():
            return HangUp()
