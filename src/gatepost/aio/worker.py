"""A worker's loop: uvloop, its signals, a switch interval that keeps threads from holding the loop up."""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Final

import uvloop

from gatepost.base.ports import Log

SWITCH_INTERVAL: Final = 0.0005  # s; a thread that computes gives the loop its turn after this

COLLECT_AT: Final = (20_000, 20, 50)  # a mail makes hundreds of short-lived objects; the default looks at 700


def run(
    main: Callable[[], Coroutine[object, object, None]],
    *,
    on_term: Callable[[], None],
    on_hup: Callable[[], None],
    log: Log,
) -> None:
    """Run `main()` on uvloop until it returns.

    `on_term` is called on the loop at SIGTERM and SIGINT (drain and let `main` return), `on_hup` at SIGHUP (read
    the settings anew). Both must return at once; what they raise is logged.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*COLLECT_AT)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: _unhandled(log, context))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_term)
        loop.add_signal_handler(signal.SIGHUP, on_hup)
        runner.run(main())


def _unhandled(log: Log, context: dict[str, object]) -> None:
    error = context.get("exception")
    log.error("unhandled", message=context.get("message"), exc_info=error, exception=repr(error))
