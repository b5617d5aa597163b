"""The server of the explorer: this machine alone, unless it is told otherwise."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from longstride.errors import InputError
from longstride.explorer.workbench import Workbench

__all__ = ["is_local", "listening", "needs_extra", "serve"]

_LOCAL = ("localhost", "127.0.0.1", "::1")
#: A page that was not heard of for so many seconds is forgotten: beside hard work the server may hear late.
_PATIENCE = 60.0


def needs_extra() -> Any:
    """NiceGUI.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module("nicegui")
    except ImportError:
        raise InputError("the explorer needs extra packages: pip install 'longstride[ui]'") from None


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0: any free one.

    Raises:
        InputError: the address is not of this machine, or the port is taken.
    """
    found = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except (OSError, OverflowError) as error:
        if found is not None:
            found.close()
        raise InputError(
            f"cannot listen at {host}, port {port}: {getattr(error, 'strerror', None) or error}; choose another --port"
        ) from None
    return found


def serve(bench: Workbench, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the page until the process is told to stop.

    Nothing is asked of any other machine: scripts and fonts come from the package, and NiceGUI sends no usage data. Its
    tunnel (``on_air``) stays off. On a local address other names of this machine are refused, so that no page of the
    web can speak to the explorer under a name of its own.

    Args:
        bench: What the page shows.
        host: Address.
        port: Port; 0: any free one.
        say: Told the page's address.

    Raises:
        InputError: NiceGUI is missing, or the port is taken.
    """
    nicegui = needs_extra()
    import uvicorn
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from longstride.explorer.web.page import build

    with listening(host, port) as opened:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        nicegui.core.sio.eio.cors_allowed_origins = None  # pages of the same origin alone
        nicegui.app.on_shutdown(bench.stop)
        nicegui.ui.run_with(
            app,
            root=lambda: build(bench),
            title="longstride",
            favicon="🟥",
            language="en-US",
            tailwind=False,
            reconnect_timeout=_PATIENCE,
            show_welcome_message=False,
            on_air=None,
        )
        if is_local(host):
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*_LOCAL, host], www_redirect=False)
        name = f"[{host}]" if ":" in host else host
        say(f"http://{name}:{opened.getsockname()[1]}")
        with suppress(KeyboardInterrupt):  # the usual end
            uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[opened])
