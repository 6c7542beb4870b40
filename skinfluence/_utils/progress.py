"""One hook for long work: what is being done, and how much of it is left.

    for batch in track(batches, "scores"):
        ...

A bar of tqdm where it was asked for (``verbose``) and tqdm is installed, else lines of the logger
"skinfluence". The callbacks of scikit-learn hear of it too, inside a fit that supports them.
"""

import logging
import sys
import time
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import wraps
from importlib.util import find_spec

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn < 1.9
    with_callbacks = None

    class CallbackSupportMixin:
        """Estimators of older releases have no callbacks."""


__all__ = ["CallbackSupportMixin", "reported", "reporting", "tell", "track"]

LOGGER = logging.getLogger("skinfluence")

# Seconds between two lines.
INTERVAL = 5.0

_VERBOSE = ContextVar("verbose", default=0)
_FIT = ContextVar("fit", default=None)


@contextmanager
def reporting(verbose):
    """Show progress of the work inside, if it was asked for here or further out.

    Parameters
    ----------
    verbose : int
        Above 0, progress is shown.
    """
    token = _VERBOSE.set(max(int(verbose), _VERBOSE.get()))
    try:
        yield
    finally:
        _VERBOSE.reset(token)


def reported(fit):
    """Decorator of a method ``fit``: reports as ``self.verbose`` says, and to callbacks."""

    @wraps(fit)
    def with_report(self, *args, **kwargs):
        with reporting(self.verbose), _callbacks_of(self):
            return fit(self, *args, **kwargs)

    return with_report if with_callbacks is None else with_callbacks(with_report)


@contextmanager
def _callbacks_of(estimator):
    """Let the loops inside be tasks of the fit of an estimator with callbacks."""
    if not hasattr(estimator, "_skl_callbacks"):
        yield
        return
    task = estimator._init_callback_context(max_subtasks=None)
    task.call_on_fit_task_begin(estimator=estimator)
    token = _FIT.set((estimator, task))
    try:
        yield
    finally:
        _FIT.reset(token)
        task.call_on_fit_task_end(estimator=estimator)


def track(items, what, total=None):
    """Give items one by one, and report how many are done.

    Parameters
    ----------
    items : iterable
        What a loop goes over, or the results of tasks as they come.
    what : str
        What is done, in the plural: "refits".
    total : int, default=None
        Number of items; ``len(items)`` by default.

    Yields
    ------
    object
        The items.
    """
    total = len(items) if total is None else total
    if total < 2:
        yield from items
        return
    with ExitStack() as stack:
        sinks = [stack.enter_context(sink) for sink in _sinks(what, total)]
        for item in items:
            yield item
            for sink in sinks:
                sink.advance()


def tell(text):
    """Report one line: to the logger, and on the screen where progress is shown."""
    LOGGER.info(text)
    if _VERBOSE.get() and not LOGGER.isEnabledFor(logging.INFO):
        print(f"[skinfluence] {text}", file=sys.stderr)


def _sinks(what, total):
    if _VERBOSE.get() and find_spec("tqdm") is not None:
        yield _Bar(what, total)
    else:
        yield _Lines(what, total)
    if _FIT.get() is not None:
        yield _Tasks(what, total, *_FIT.get())


class _Sink:
    """Where progress goes: entered before the first item, left after the last."""

    def __init__(self, what, total):
        self.what, self.total = what, total

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


class _Bar(_Sink):
    """A bar of tqdm."""

    def __enter__(self):
        from tqdm.auto import tqdm

        self.bar = tqdm(total=self.total, desc=self.what, leave=False)
        return self

    def advance(self):
        self.bar.update()

    def __exit__(self, *error):
        self.bar.close()


class _Lines(_Sink):
    """Lines every few seconds; work that takes less says nothing."""

    def __enter__(self):
        self.start = self.last = time.monotonic()
        self.done = 0
        return self

    def advance(self):
        self.done += 1
        now = time.monotonic()
        if now - self.last >= INTERVAL:
            self.last, passed = now, now - self.start
            left = passed * (self.total - self.done) / self.done
            tell(
                f"{self.what}: {self.done} of {self.total} done in {passed:.0f} s, about "
                f"{left:.0f} s left"
            )


class _Tasks(_Sink):
    """Tasks for the callbacks of scikit-learn, one for the loop and one for each item."""

    def __init__(self, what, total, estimator, parent):
        super().__init__(what, total)
        self.estimator, self.parent = estimator, parent

    def __enter__(self):
        self.loop = self.parent.subcontext(task_name=self.what, max_subtasks=self.total)
        self.loop.call_on_fit_task_begin(estimator=self.estimator)
        # A loop inside belongs to an item of this one, which is no task until it has ended.
        _FIT.set(None)
        return self

    def advance(self):
        task = self.loop.subcontext(task_name=self.what)
        task.call_on_fit_task_begin(estimator=self.estimator)
        task.call_on_fit_task_end(estimator=self.estimator)

    def __exit__(self, *error):
        _FIT.set((self.estimator, self.parent))
        self.loop.call_on_fit_task_end(estimator=self.estimator)
