"""The functions that jobs run: ``module:function`` found, allowed, and called with what it takes."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lifebeat.storage import forks
from lifebeat.text.hints import did_you_mean

if TYPE_CHECKING:
    from types import ModuleType

TELEMETRY = "lifebeat_jobs"
# What is there without looking: their import is not for the start, but for the thread that runs them.
SHIPPED = tuple(f"{TELEMETRY}.telemetry:{name}" for name in ("startup", "heartbeat", "shutdown"))
_MODULE = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_FORM = re.compile(rf"{_MODULE}:[A-Za-z_]\w*", re.ASCII)

Target = Callable[..., Any]
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
    if not hasattr(module, name):
        hint = did_you_mean(name, [one for one in vars(module) if not one.startswith("_")])
        raise ValueError(f"the module {module_name!r} has no {name!r}{hint}")
    target = getattr(module, name)
    if not callable(target) or isinstance(target, type):
        raise ValueError(f"{run!r} is not a function, but of type {type(target).__name__}; name a function")  # noqa: TRY004 - one kind of refusal
    _check_kind(run, target)
    return target  # type: ignore[no-any-return]


def check_owner(run: str, target: Target, allow: Sequence[str]) -> None:
    """Refuse what a module only imported: with ``from subprocess import run`` in it, a shell would be allowed.

    Raises:
        ValueError: The function is defined in another module, which the host did not allow.
    """
    module, _, name = run.partition(":")
    while isinstance(target, functools.partial):
        target = target.func
    owner = getattr(target, "__module__", None)
    if owner != module and not _is_below(owner or "", allow):
        remedy = f"name it there ({owner}:{name}), or" if owner else "write"
        raise ValueError(f"{run!r} is defined in {owner!r}; {remedy} a function of {module} that calls it")


def _check_kind(run: str, target: Any) -> None:
    while isinstance(target, functools.partial):
        target = target.func
    is_manager = getattr(target, "__globals__", {}).get("__name__") == "contextlib"
    if is_manager and hasattr(target, "__wrapped__"):
        raise ValueError(f"{run!r} is a context manager, and called alone runs nothing; name a function that enters it")
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise ValueError(f"{run!r} is a generator, and called alone runs nothing; name a function that runs it")


def _import(name: str) -> ModuleType:
    try:
        return forks.importing(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(f"there is no module {error.name!r}{_near_module(name)}; is it on the path?") from None
        raise ValueError(f"importing {name!r} failed: it needs the module {error.name!r}, which is missing") from error
    except SystemExit:
        raise ValueError(f"importing {name!r} failed: it ends the process (sys.exit)") from None
    except Exception as error:
        raise ValueError(f"importing {name!r} failed: {type(error).__name__}: {error}") from error


def _near_module(name: str) -> str:
    """Return what stands beside a module that is not there, if it is called much the same."""
    import pkgutil

    package, _, missing = name.rpartition(".")
    try:
        there = [f"{package}.{one.name}" for one in pkgutil.iter_modules(forks.importing(package).__path__)]
    except (ImportError, AttributeError, ValueError):
        return ""
    return did_you_mean(f"{package}.{missing}", there)


def check_arguments(target: Target, args: Mapping[str, Any]) -> None:
    """Hold ``args`` against the function's signature before anything runs.

    Raises:
        ValueError: An argument that it does not take, or one missing; the message shows the signature.
    """
    try:
        signature = inspect.signature(target)
    except (ValueError, TypeError):  # some built-in functions tell nothing of themselves
        return
    given: dict[str, Any] = dict(args)
    if takes_context(target):
        given["context"] = None
    try:
        signature.bind(**given)
    except TypeError as error:
        names = [name for name in signature.parameters if name != "context"]
        unknown = next((one for one in args if one not in names), "")
        shown = f"{getattr(target, '__name__', 'it')}{signature}"
        hint = did_you_mean(unknown, names)
        raise ValueError(f"{shown} cannot be called with these args: {error}{hint}") from None


@functools.lru_cache(maxsize=1024)  # it is asked at every run
def takes_context(target: Target) -> bool:
    """Return whether the function has a parameter named ``context``."""
    try:
        return "context" in inspect.signature(target).parameters
    except (ValueError, TypeError):
        return False
