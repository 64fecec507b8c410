"""A page to look at: what is sent, who decided, what ran and runs next; with the buttons that commands are.

A host with an admin area of its own puts it there, behind its own login::

    flask_app.wsgi_app = DispatcherMiddleware(flask_app.wsgi_app, {"/telemetry": lifebeat.view.wsgi(handle)})
    fastapi_app.mount("/telemetry", lifebeat.view.asgi(handle))

Lifebeat does not know the host's users: everyone that the host lets through sees the page, and may press its buttons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lifebeat.handle import Lifebeat
    from lifebeat.view.asynchronous import AsyncView
    from lifebeat.view.web import View

__all__ = ["asgi", "wsgi"]


def wsgi(handle: Lifebeat, *, buttons: bool = False) -> View:
    """Return the page as a WSGI application.

    Args:
        handle: What ``attach`` returned.
        buttons: Whether it has buttons that turn telemetry off, accept what an update sends, and steer jobs; without,
            it changes nothing.
    """
    import importlib

    from lifebeat.view.web import View

    # By their names: commands stand above this room, and show the same documents.
    command, applications = (importlib.import_module(f"lifebeat.cli.{name}") for name in ("view", "application"))

    def find() -> object:
        return applications.Attached(handle.application)

    return View(lambda shown: command.gather(find(), shown), command.buttons(find) if buttons else {})


def asgi(handle: Lifebeat, *, buttons: bool = False) -> AsyncView:
    """Return the page as an ASGI application; its work is done in a thread.

    Args:
        handle: What ``attach`` returned.
        buttons: Whether it has buttons that turn telemetry off, accept what an update sends, and steer jobs; without,
            it changes nothing.
    """
    from lifebeat.view.asynchronous import AsyncView

    return AsyncView(wsgi(handle, buttons=buttons))
