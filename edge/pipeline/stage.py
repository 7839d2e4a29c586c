"""What a stage of a build is: a row of functions from inputs to a frozen result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from attrs import frozen

from edge.pipeline.inputs import Inputs
from edge.progress import Listener

if TYPE_CHECKING:
    from edge.pipeline.build import Build

T = TypeVar("T")


@frozen(eq=False)
class Stage(Generic[T]):
    """A row: one stage of a build."""

    name: str  #: such as ``compile``; also the verb that runs it.
    #: does the work; if it takes them, it also gets ``out``, an empty folder, and ``reporter``. All modules that its
    #: module imports are the ``code`` part of the cache key.
    work: Callable[..., T]
    result: type[T]  #: class that ``work`` returns.
    needs: tuple[Stage[Any], ...]  #: stages whose results ``inputs`` reads; those that apply run first.
    inputs: Callable[[Build], Inputs]  #: the inputs of ``work`` in this build.
    note: Callable[[Build, T], str]  #: the result in a few words.
    #: whether it applies to the build; others do not need a stage that does not apply.
    when: Callable[[Build], bool] = lambda _build: True
    #: warnings for the user about the result, also about a cached one.
    warnings: Callable[[Build, T], Iterator[str]] = lambda _build, _result: iter(())


def with_compiler(build: Build) -> bool:
    """Tell whether the vendor's compiler makes the program."""
    return build.toolchain is not None


def asks_for(key: str) -> Callable[[Build], bool]:
    """Return whether a build's recipe has a key."""
    return lambda build: bool(getattr(build.request.precision, key))


class Inside:
    """Shows the stages of something that is a stage itself as its steps; each warning once.

    Args:
        standing: what stands behind each line.
        steps: how many there will be, so that the fraction is of all of them; 0 where nobody knows.
    """

    def __init__(self, listener: Listener, standing: Callable[[], str] = str, steps: int = 0) -> None:
        self._listener, self._standing = listener, standing
        self._steps, self._begun = steps, 0
        self._warned: set[str] = set()
        self._step = ""

    def begin(self, stage: str) -> None:
        """Remember the stage."""
        self._step = stage
        self._begun += 1

    def end(self, stage: str, seconds: float, *, cached: bool, note: str) -> None:
        """Show nothing at the end of a stage."""

    def update(self, text: str, fraction: float | None = None) -> None:
        """Show the step."""
        if fraction is not None and self._steps:
            fraction = (self._begun - 1 + fraction) / self._steps
        self._listener.update((f"{self._step}: {text}" if self._step else text) + self._standing(), fraction)

    def warn(self, message: str) -> None:
        """Pass a warning on, once."""
        if message not in self._warned:
            self._warned.add(message)
            self._listener.warn(message)
