"""What the command lines share: errors in one line, and signals that end a run in order."""

import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from threading import Event, Thread
from types import FrameType

from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from platformdirs import user_cache_dir

from client.errors import first_line, nearest
from client.quoting import override, pasted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
KEY = re.compile(r"[\w./@+]+")
AMBIGUOUS = re.compile(r"Ambiguous value for argument '([^=]+)=(.*?)'\n1\. ", re.DOTALL)
AGAIN_SECONDS = 3.0
"""A signal so soon after another one is the same: a terminal and a parent both send it."""


class Interrupted(KeyboardInterrupt):
    """The process was asked to end.

    Parameters
    ----------
    number : int
        Of the signal.

    Attributes
    ----------
    status : int
        Exit status by convention: 130 after SIGINT, 143 after SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Have SIGINT and SIGTERM raise `Interrupted` in the main thread, unless they are ignored.

    A thread waits for SIGINT, which is blocked here: see `spare_children`. From the signal on,
    threads that fail print nothing: libraries' own threads lose their work in the middle of it.
    """
    last, over = -AGAIN_SECONDS, Event()
    waited_for: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        number = waited_for.pop() if waited_for else number
        if (now := time.monotonic()) - last >= AGAIN_SECONDS:
            last = now
            threading.excepthook = _nothing_to_say
            raise Interrupted(number)

    def wait() -> None:
        while signal.sigwait({signal.SIGINT}) and not over.is_set():
            waited_for.append(signal.SIGINT)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, interrupt)
    waited = {signal.SIGINT}.intersection(taken)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    waiting = [Thread(target=wait, daemon=True) for _ in waited]
    for thread in waiting:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in waiting:  # where SIGINT is ignored nothing would wake it
            signal.pthread_kill(thread.ident or 0, signal.SIGINT)
            thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number in taken:
            signal.signal(number, before[number])


def _nothing_to_say(failed: threading.ExceptHookArgs) -> None:
    """Take the place of `threading.excepthook` in a process that is ending."""


def spare_children() -> None:
    """Have processes that are started from now on inherit that SIGINT is blocked.

    A terminal sends it to them, too, and they are to end in order, by this process. Python's
    resource tracker unblocks it when it is started, so that it comes first.
    """
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def explain(error: HydraException | OmegaConfBaseException) -> str:
    """Return one line that says of a bad override what is wrong, and the nearest right one."""
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read; {_remedy(error.override or '')}"
    if isinstance(error, HydraException) and (found := AMBIGUOUS.match(str(error))):
        key, value = found.groups()
        listed, text = pasted([f"{key}=[{value}]"]), pasted([override(key, value)])
        return f"{key}={value}: a comma; write {listed}, for one text {text}, or -m for a sweep"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = group_options(group)
        hint = nearest(name, options, f"{group}=") or f"; choose one of {', '.join(options)}"
        return f"{group}={name}: no such option{hint}"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        found = cause.parent_node
        return no_such_key(str(cause.full_key), found if isinstance(found, DictConfig) else [])
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {first_line(cause)}"
    return first_line(error)


def _remedy(argument: str) -> str:
    """Return how to write an override that Hydra cannot read, where it may be a text."""
    key, equals, value = argument.partition("=")
    if equals and KEY.fullmatch(key) and not value.startswith(("[", "{", "'", '"')):
        return f"if it is a text, write {pasted([override(key, value)])}"
    if other := next((word for word in re.findall(r"\w+", value) if not word.isascii()), None):
        return f"put each text with letters such as those of {other} into quotes: {other!r}"
    return "write KEY=VALUE, in quotes where it has brackets or spaces"


def no_such_key(key: str, beside: Iterable[object]) -> str:
    """Return one line on a key that is none, and the nearest of those that are there."""
    above, dot, name = key.rpartition(".")
    hint = nearest(name, [str(other) for other in beside], above + dot)
    return f"{key}: no such key{hint or '; fedser --help lists all'}"


def group_options(group: str) -> Sequence[str]:
    """Return the options of a group of the configuration, as Hydra finds them."""
    if not GlobalHydra.instance().is_initialized():
        with initialize_config_module("conf", version_base="1.3"):
            return group_options(group)
    return GlobalHydra.instance().config_loader().get_group_options(group, ObjectType.CONFIG)


# What conf/ is written with: the folder of the system for what may be made again.
_user_cache = partial(user_cache_dir, "fedser", appauthor=False)
OmegaConf.register_new_resolver("user_cache", _user_cache, replace=True)
