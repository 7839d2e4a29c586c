"""A model's queue: so many requests are computed at once, so many wait, and more are refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from edge.errors import ServeError
from edge.runtime.steps import Stopwatch

T = TypeVar("T")


class Queue:
    """Runs work in threads, in the order in which it came.

    Args:
        threads: that compute at once.
        waiting: requests at most that wait for a thread.
        seconds: that a request may take from its coming to its answer.
    """

    def __init__(self, threads: int, waiting: int, seconds: float) -> None:
        self.seconds = seconds
        self.most = threads + waiting
        self._inside = 0
        self._counting = threading.Lock()
        self._threads = ThreadPoolExecutor(threads, "edge-serve")
        self._stopping = False

    @property
    def inside(self) -> int:
        """Requests that wait or are computed just now."""
        return self._inside

    @property
    def open(self) -> bool:
        """Whether it takes requests at all."""
        return not self._stopping

    async def do(self, work: Callable[[Stopwatch], T]) -> T:
        """Return what ``work`` does in one of the threads; its stopwatch has run since now.

        Cancelled while it waits, ``work`` is not begun.

        Raises:
            ServeError: the queue is full or is stopping, or the time is over.
        """
        self.require_open()
        with self._counting:
            if self._inside >= self.most:
                raise ServeError("full", f"{self._inside} requests wait or are computed", expected="try again later")
            self._inside += 1
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        job: list[Callable[[Stopwatch], T]] = [work]  # emptied when nobody waits for it, so that its data is freed
        watch = Stopwatch()

        def settle(result: T | None, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, error = None, None
            try:
                if job:
                    watch.lap("queue")
                    result = job.pop()(watch)
            except BaseException as found:
                error = found
            with self._counting:
                self._inside -= 1
            loop.call_soon_threadsafe(settle, result, error)

        self._threads.submit(run)
        try:
            return await asyncio.wait_for(answer, self.seconds)
        except asyncio.TimeoutError:
            raise ServeError("late", f"no answer within {self.seconds:g} s") from None
        finally:
            job.clear()

    def require_open(self) -> None:
        """Raise ServeError if it takes no more requests."""
        if self._stopping:
            raise ServeError("stopping", "the server is stopping")

    def stop(self) -> None:
        """Refuse what comes from now on; what is inside goes on."""
        self._stopping = True

    def close(self) -> None:
        """Wait for what is computed just now, and free the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)
