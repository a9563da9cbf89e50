"""What the rivals in Python share: lines of JSON over standard input and output, with `smallmind bench kernels` on the other side.

A contender offers kernels; a kernel asked for with its parameters is a `Case`: the ways in which a user of the library could
call it, and the answer that is expected of them. All ways are checked, and the fastest one is timed.
"""

import contextlib
import gc
import json
import os
import sys
import time
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Callable

WARM_UP_SECONDS = 0.05
TRIAL_SECONDS = 0.03


class Unsupported(Exception):
    """The library has no such kernel, or not for these parameters."""


class Wrong(Exception):
    """The library's result is not the expected one."""


@dataclass
class Case:
    """One kernel with its operands. Each of `ways` takes no arguments and computes the same."""

    ways: dict[str, Callable[[], Any]]
    # Runs a way once and raises `Wrong` if its result is not the expected one.
    check: Callable[[Callable[[], Any]], None]
    # What surrounds every call, such as PyTorch's inference mode.
    surroundings: Callable[[], Any] = contextlib.nullcontext
    # What has to live as long as the case because a way holds only its address.
    operands: tuple = ()
    # The way that is timed: the fastest.
    chosen: str = ""


@dataclass
class Contender:
    name: str
    version: str
    set_threads: Callable[[int], None]
    # "matmul/f32" and so on, to a function of the parameters.
    kernels: dict[str, Callable[[dict], Case]] = field(default_factory=dict)

    def prepare(self, request):
        """The case that is asked for, checked and warm."""
        kernel = f"{request['kernel']}/{request['dtype']}"
        if kernel not in self.kernels:
            raise Unsupported(f"{self.name} has no {kernel}")
        threads, allowed = request["threads"], processors()
        if not 1 <= threads <= allowed:
            raise Unsupported(f"{threads} threads, but this process may use {allowed}")
        self.set_threads(threads)
        case = self.kernels[kernel](request["params"])
        with case.surroundings():
            for way in case.ways.values():
                case.check(way)
            seconds = {}
            # A single way needs no trial.
            for name, way in case.ways.items() if len(case.ways) > 1 else ():
                seconds[name] = trial(way, TRIAL_SECONDS)
            case.chosen = min(seconds, key=seconds.get) if seconds else next(iter(case.ways))
            trial(case.ways[case.chosen], WARM_UP_SECONDS)
        return case


def processors():
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def trial(way, seconds):
    """The best time of one call, after so many seconds of calls and at least three."""
    best, calls, end = float("inf"), 0, time.perf_counter() + seconds
    while calls < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        way()
        best = min(best, time.perf_counter() - start)
        calls += 1
    return best


def sample(case, iterations):
    """Seconds of so many calls together, without pauses of the garbage collector."""
    way = case.ways[case.chosen]
    with case.surroundings():
        gc.disable()
        try:
            start = time.perf_counter()
            for _ in repeat(None, iterations):
                way()
            return time.perf_counter() - start
        finally:
            gc.enable()


def start_over(without=(), **wanted):
    """Starts this program over in another environment where need be: libraries read theirs once, when they are loaded."""
    environment = {name: value for name, value in os.environ.items() if name not in without} | wanted
    if environment != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def serve(rival, version, contenders):
    """Greets, and answers requests until `quit` or the end of the input."""

    def send(message):
        print(json.dumps(message), flush=True)

    introductions = [{"name": c.name, "version": c.version, "kernels": list(c.kernels)} for c in contenders]
    send({"rival": rival, "version": version, "contenders": introductions})
    by_name = {contender.name: contender for contender in contenders}
    prepared = None
    for line in sys.stdin:
        request = {}
        try:
            request = json.loads(line)
            operation, answer = request["op"], {"id": request.get("id")}
            if operation == "quit":
                break
            if operation == "prepare":
                # The operands of the case before are freed first.
                prepared = None
                gc.collect()
                if request["contender"] not in by_name:
                    raise Unsupported(f"no contender {request['contender']}")
                prepared = by_name[request["contender"]].prepare(request)
                answer |= {"ok": True, "way": prepared.chosen}
            elif operation == "sample":
                if prepared is None:
                    raise Unsupported("nothing is prepared")
                answer["seconds"] = [sample(prepared, request["iterations"])]
            elif operation == "release":
                prepared = None
                answer["ok"] = True
            else:
                raise Unsupported(f"no operation {operation}")
            send(answer)
        # Whatever goes wrong in a case ends the case and not the comparison.
        except Exception as error:
            match error:
                case Unsupported():
                    why = str(error)
                case Wrong():
                    why = f"wrong: {error}"
                case _:
                    why = f"error: {type(error).__name__}: {error}"
            send({"id": request.get("id") if isinstance(request, dict) else None, "ok": False, "why": why})
