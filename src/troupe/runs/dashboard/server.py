"""`troupe dashboard`: serves the page and its data, to this machine only unless told otherwise, and changes nothing."""

import ipaddress
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from werkzeug import Request, Response
from werkzeug.exceptions import Forbidden, HTTPException, MethodNotAllowed, NotFound
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.utils import send_file

from troupe.config import UsageError, reason
from troupe.runs.dashboard.folder import Folder
from troupe.runs.dashboard.page import page
from troupe.runs.dashboard.shown import MEDIA

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def application(folder: Folder, host: str) -> "WSGIApplication":
    """The WSGI application at the address `host`: / is the page, /data its data, /file/RUN/videos/NAME a video."""
    text = page()

    def respond(request: Request) -> Response:
        # A page of somebody else's, whose name was made to lead here, would send that name (DNS rebinding).
        if not _is_ours(request.environ.get("HTTP_HOST", ""), host):
            raise Forbidden("this address is not the dashboard's")
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(["GET", "HEAD"])
        if request.path == "/":
            return Response(text, mimetype="text/html")
        if request.path == "/data":
            after = request.args.get("after", 0.0, type=float)
            return Response(msgspec.json.encode(folder.answer(after)), mimetype="application/json")
        return send_file(_video(folder, request.path), request.environ, mimetype=_type(request.path))

    @Request.application
    def answer(request: Request) -> Response:
        try:
            response = respond(request)
        except HTTPException as error:
            response = error.get_response(request.environ)
        response.headers.update(_HEADERS)
        return response

    return answer


def _video(folder: Folder, path: str) -> Path:
    """The file of a path /file/RUN/videos/NAME: one of those that the run shows, and no other."""
    run, _, name = path.removeprefix("/file/").rpartition("/videos/")
    shown = folder.run(run) if path.startswith("/file/") else None
    found = next((file for file in shown.media() if file.name == name), None) if shown else None
    if not found:
        raise NotFound()
    return found


def _type(path: str) -> str:
    return MEDIA[Path(path).suffix.lower()]


def _is_ours(header: str, host: str) -> bool:
    """Whether a Host header names this machine: by an address, which no other page can have, or by a name of ours."""
    name = header.rpartition(":")[0] if not header.endswith("]") and ":" in header else header
    names = {"localhost", host.lower()} | (set() if is_loopback(host) else {socket.gethostname().lower()})
    return name.lower() in names or _address(name.strip("[]")) is not None


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or bool(address and address.is_loopback)


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_: object) -> None:
        """A page that asks every two seconds would fill the terminal."""


def make(root: Path, host: str, port: int, *, remote: bool = False) -> BaseWSGIServer:
    """A server that `serve_forever` runs. Raises UsageError for a folder, an address or a port that cannot be had."""
    folder = Folder(root)
    if not (remote or is_loopback(host)):
        raise UsageError(
            f"--host {host} would show the runs to everybody who can reach this machine: add --remote if that is meant"
        )
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server((address[0], port), family=family)
    except (OSError, OverflowError) as error:
        why = reason(error).partition(" (while")[0]
        raise UsageError(f"cannot serve at {host}, port {port}: {why}; --port N takes another one") from error
    with listener:
        app = application(folder, host)
        return make_server(
            str(address[0]), listener.getsockname()[1], app, threaded=True, request_handler=_Quiet, fd=listener.fileno()
        )
