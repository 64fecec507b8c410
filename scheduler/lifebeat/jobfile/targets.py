"""The functions that jobs run: ``module:function`` found, allowed, and called with what it takes."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

ALWAYS_ALLOWED = "lifebeat_jobs"
# What is there without looking: their import is not for the start, but for the thread that runs them.
SHIPPED = frozenset(f"{ALWAYS_ALLOWED}.telemetry:{name}" for name in ("startup", "heartbeat", "shutdown"))
_FORM = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)

Target = Callable[..., Any]


def check_form(run: str) -> None:
    """Refuse what is not of the form ``module:function``.

    Raises:
        ValueError: It is not.
    """
    if not _FORM.fullmatch(run):
        raise ValueError(f"{run!r} is not of the form 'module:function', such as 'myapp.jobs:report'")


def check_allowed(run: str, allow: Sequence[str]) -> None:
    """Refuse a module that the host did not allow: a job file is data, not a way in.

    Raises:
        ValueError: The module is neither in ``allow`` nor below one that is.
    """
    module = run.partition(":")[0]
    names = [ALWAYS_ALLOWED, *allow]
    if not any(module == name or module.startswith(f"{name}.") for name in names):
        allowed = ", ".join(names)
        raise ValueError(
            f"the module {module!r} is not allowed (allowed: {allowed}); "
            f'the host allows it with attach(allow=["{module}"]) or --allow {module}'
        )


def find(run: str) -> Target:
    """Import the function.

    Raises:
        ValueError: There is no such module, or importing it failed, or it has no such function: three messages.
    """
    module_name, _, name = run.partition(":")
    module = _import(module_name)
    if not hasattr(module, name):
        import difflib

        near = difflib.get_close_matches(name, [one for one in vars(module) if not one.startswith("_")], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"the module {module_name!r} has no {name!r}{hint}")
    target = getattr(module, name)
    if not callable(target) or isinstance(target, type):
        raise ValueError(f"{run!r} is not a function, but of type {type(target).__name__}; name a function")  # noqa: TRY004 - one kind of refusal
    return target  # type: ignore[no-any-return]


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(f"there is no module {error.name!r}{_near_module(name)}; is it on the path?") from None
        raise ValueError(f"importing {name!r} failed: it needs the module {error.name!r}, which is missing") from error
    except Exception as error:
        raise ValueError(f"importing {name!r} failed: {type(error).__name__}: {error}") from error


def _near_module(name: str) -> str:
    """What stands beside a module that is not there, if it is called much the same."""
    import pkgutil

    package, _, missing = name.rpartition(".")
    try:
        there = [one.name for one in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    except (ImportError, AttributeError, ValueError):
        return ""
    import difflib

    near = difflib.get_close_matches(missing, there, 1)
    return f" (did you mean '{package}.{near[0]}'?)" if near else ""


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
        import difflib

        names = [name for name in signature.parameters if name != "context"]
        unknown = next((one for one in args if one not in names), None)
        near = difflib.get_close_matches(unknown, names, 1) if unknown else []
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        shown = f"{getattr(target, '__name__', 'it')}{signature}"
        raise ValueError(f"{shown} cannot be called with these args: {error}{hint}") from None


@functools.lru_cache(maxsize=1024)  # it is asked at every run
def takes_context(target: Target) -> bool:
    """Whether the function has a parameter named ``context``."""
    try:
        return "context" in inspect.signature(target).parameters
    except (ValueError, TypeError):
        return False
