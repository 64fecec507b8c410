"""The functions that jobs run: ``module:function`` found, allowed, and called with what it takes."""

from __future__ import annotations

import functools
import inspect
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any

from lifebeat.errors import in_words
from lifebeat.storage import forks
from lifebeat.text.hints import did_you_mean

if TYPE_CHECKING:
    from types import ModuleType

TELEMETRY = "lifebeat_jobs"
# What is there without looking: their import is not for the start, but for the thread that runs them.
SHIPPED = tuple(f"{TELEMETRY}.telemetry:{name}" for name in ("startup", "heartbeat", "shutdown"))
_NAME = r"[^\W\d]\w*"
_FORM = re.compile(rf"{_NAME}(?:\.{_NAME})*:{_NAME}")

Target = Callable[..., Any]
_MOST_WRAPPERS = 100
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
FAILURE_ARGUMENTS: Mapping[str, Any] = {"job": "", "error": None}  # what `on_failure:` is called with


def is_telemetry(run: str) -> bool:
    """Return whether a function belongs to the telemetry job module that Lifebeat ships, and not to the host."""
    return run.partition(":")[0].partition(".")[0] == TELEMETRY


def check_form(run: str) -> None:
    """Refuse what is not of the form ``module:function``.

    Raises:
        ValueError: It is not.
    """
    if not _FORM.fullmatch(run):
        meant = _meant(run)
        form = f"write {meant}" if meant else "expected 'module:function', such as 'myapp.jobs:report'"
        raise ValueError(f"{run!r} is not of the form 'module:function'; {form}")
    if run.partition(":")[2].startswith("_"):
        raise ValueError(f"{run!r} is private to its module; name a function without a leading underscore")


def _meant(run: str) -> str:
    """Return how the function of a call, a path or a dotted name is written here; empty if that is not clear."""
    text = re.sub(r"\(.*\)$", "", run.strip()).removeprefix("python -m ").replace("::", ":")
    text = re.sub(r"\.py(?=:|$)", "", text).removeprefix("./")
    module, colon, name = text.replace("/", ".").rpartition(":")
    if not colon:
        module, _, name = text.replace("/", ".").rpartition(".")
    meant = f"{module}:{name}"
    return meant if _FORM.fullmatch(meant) else ""


def check_allowed(run: str, allow: Sequence[str]) -> None:
    """Refuse a module that the host did not allow: a job file is data, not a way in.

    Raises:
        ValueError: The module is neither in ``allow`` nor below one that is; or it is Lifebeat's, and the function none
            of its jobs.
    """
    if is_telemetry(run):
        if run not in SHIPPED:
            hint = did_you_mean(run, SHIPPED)
            raise ValueError(f"{run!r} is no job; of {TELEMETRY} there are: {', '.join(SHIPPED)}{hint}")
        return
    module = run.partition(":")[0]
    if not _is_below(module, allow):
        allowed = ", ".join([TELEMETRY, *allow])
        raise ValueError(
            f"the module {module!r} is not allowed (allowed: {allowed}); "
            f'the host allows it with attach(allow=["{module}"]) or --allow {module}'
        )


def _is_below(module: str, allow: Sequence[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allow)


def find(run: str) -> Target:
    """Import the function.

    Raises:
        ValueError: There is no such module, or importing it failed, or it has no such function, or that is none which
            a job can be; the message says which.
    """
    module_name, _, name = run.partition(":")
    module = _import(module_name)
    try:
        target = getattr(module, name)
    except AttributeError:
        hint = did_you_mean(name, [one for one in dir(module) if not one.startswith("_")])
        raise ValueError(f"the module {module_name!r} has no {name!r}{hint}") from None
    if not callable(target) or isinstance(target, type):
        raise ValueError(f"{run!r} is not a function, but of type {type(target).__name__}; name a function")  # noqa: TRY004 - one kind of refusal
    return target  # type: ignore[no-any-return]


def check_kind_and_owner(run: str, target: Target, allow: Sequence[str]) -> None:
    """Refuse what a module only imported: with ``from subprocess import run`` in it, a shell would be allowed.

    Raises:
        ValueError: The function is defined in another module, which the host did not allow; or it runs nothing.
    """
    _check_kind(run, target, allow)
    module = run.partition(":")[0]
    while isinstance(target, functools.partial):
        target = target.func
    owner = getattr(target, "__module__", None)
    if owner != module and not _is_below(owner or "", allow):
        name = getattr(target, "__name__", "")
        remedy = f"name it there ({owner}:{name}), or write" if owner and name else "write"
        raise ValueError(f"{run!r} is defined in {owner!r}; {remedy} a function of {module} that calls it")


def _check_kind(run: str, target: Any, allow: Sequence[str]) -> None:
    """Refuse what makes a generator or a context manager when it is called, also inside of a wrapper or an instance."""
    inner = _inside(target, allow)
    is_manager = getattr(inner, "__globals__", {}).get("__name__") == "contextlib"
    if is_manager and hasattr(inner, "__wrapped__"):
        raise ValueError(f"{run!r} is a context manager, and called alone runs nothing; name a function that enters it")
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise ValueError(f"{run!r} is a generator, and called alone runs nothing; name a function that runs it")


def _inside(target: Any, allow: Sequence[str]) -> Any:
    """Return the function that is called in the end, through partials, instances and wrappers of the host's own.

    What a library wraps around a function may run a generator: the coroutines of tornado and twisted are some.
    """
    for _ in range(_MOST_WRAPPERS):
        wrapper = getattr(target, "__globals__", {}).get("__name__", "functools")
        if isinstance(target, functools.partial):
            target = target.func
        elif hasattr(target, "__wrapped__") and (wrapper == "functools" or _is_below(wrapper, allow)):
            target = target.__wrapped__
        elif isinstance(call := type(target).__call__, FunctionType):
            target = call
        else:
            break
    return target


def refuse_result(result: Any) -> None:
    """Refuse what a function returned that would have to be run to do anything.

    Raises:
        TypeError: It is a generator or a context manager of ``contextlib``.
    """
    kind = "a generator" if inspect.isgenerator(result) or inspect.isasyncgen(result) else ""
    if kind or type(result).__module__ == "contextlib":
        raise TypeError(f"it returned {kind or 'a context manager'}, which runs nothing; name a function that runs it")


def is_ctrl_c(error: BaseException) -> bool:
    """Return whether it is Ctrl-C, which Python raises in the main thread only."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def _import(name: str) -> ModuleType:
    try:
        return forks.importing(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            hint = _near_module(name) or "; is it on the path? `python -m …` looks in the working directory, too"
            raise ValueError(f"there is no module {error.name!r}{hint}") from None
        raise ValueError(f"importing {name!r} failed: it needs the module {error.name!r}, which is missing") from error
    except SystemExit:
        raise ValueError(f"importing {name!r} failed: it ends the process (sys.exit)") from None
    except BaseException as error:
        if is_ctrl_c(error):
            raise
        raise ValueError(f"importing {name!r} failed: {in_words(error)}") from error


def _near_module(name: str) -> str:
    """Return what stands beside a module that is not there, if it is called much the same."""
    import pkgutil

    package, _, missing = name.rpartition(".")
    try:
        there = [f"{package}.{one.name}" for one in pkgutil.iter_modules(forks.importing(package).__path__)]
    except (ImportError, AttributeError, ValueError):
        return ""
    return did_you_mean(f"{package}.{missing}", there)


def argument_faults(target: Target, args: Mapping[str, Any]) -> Iterator[tuple[str | None, str]]:
    """Hold ``args`` against the function's signature before anything runs.

    Yields:
        An argument that it does not take, with the reason; ``None`` with the reason for what is missing.
    """
    try:
        signature = inspect.signature(target)
    except (ValueError, TypeError):  # some built-in functions tell nothing of themselves
        return
    shown = f"{getattr(target, '__name__', 'it')}{signature} cannot be called with these args"
    taken = {name: one for name, one in signature.parameters.items() if name != "context" and one.kind in _NAMED}
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in signature.parameters.values()):
        for name in [one for one in args if one not in taken]:
            yield name, f"{shown}: got an unexpected keyword argument {name!r}{did_you_mean(name, taken)}"
    given = {name: value for name, value in args.items() if name in taken} | dict.fromkeys(
        ["context"] if "context" in signature.parameters else []
    )
    try:
        signature.bind(**given)
    except TypeError as error:
        missing = [repr(name) for name, one in taken.items() if one.default is one.empty and name not in args]
        yield None, f"{shown}: missing {' and '.join(missing)}" if missing[1:] else f"{shown}: {error}"


@functools.lru_cache(maxsize=1024)  # it is asked at every run
def takes_context(target: Target) -> bool:
    """Return whether the function has a parameter named ``context``."""
    try:
        return "context" in inspect.signature(target).parameters
    except (ValueError, TypeError):
        return False
