"""A page on 127.0.0.1 that writes as you watch: the standard library's HTTP server and server-sent events.

    GET  /            the page; /play.js and /play.css are the only other files
    POST /write       {run, prompt, settings}: events `text`, then `end` or `error`
    POST /surprisal   {run, text}: pieces of the text with bits, ranks and likeliest tokens

What keeps others out. The server listens on 127.0.0.1 only. The Host header has to name it, so that a page of another
name that resolves to 127.0.0.1 (DNS rebinding) is refused. A request that a browser sends for another origin is
refused by its Origin and Sec-Fetch-Site headers, and a POST has to be JSON, which no form can send. The page's
Content-Security-Policy allows its own script and style and requests to itself: nothing leaves the machine, and text is
never parsed as HTML.
"""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

from babyllama.common.errors import BabyLlamaError, ConfigError
from babyllama.common.files import ON_WINDOWS
from babyllama.play.colouring import colour
from babyllama.play.writer import Writer, WritingSettings, settings_from

if TYPE_CHECKING:
    from socket import socket

ADDRESS = "127.0.0.1"
MOST_BYTES = 1_000_000  # of a request
MOST_CHARACTERS = 100_000  # of a text to colour: every token of it is shown
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
STATIC = {"/play.js": "text/javascript; charset=utf-8", "/play.css": "text/css; charset=utf-8"}


class PlayServer(ThreadingHTTPServer):
    """Serves the page and the models behind it."""

    daemon_threads = True  # a text that is still being written does not hold up the end of the program
    allow_reuse_address = not ON_WINDOWS  # on Windows two servers would share a port

    def __init__(self, writers: Sequence[Writer], port: int, defaults: WritingSettings) -> None:
        """Listen on 127.0.0.1.

        Args:
            writers: Loaded models, shown side by side.
            port: Port, 0 for a free one.
            defaults: Settings that the page begins with.

        Raises:
            ConfigError: The port is taken.
        """
        self.writers = list(writers)
        try:
            super().__init__((ADDRESS, port), PlayHandler)
        except OSError as error:
            hint = "another program has it? --port 0 takes a free one"
            raise ConfigError(f"--port {port}: cannot listen on {ADDRESS}: {error.strerror}; {hint}") from None
        self.page = render_page(self.writers, defaults).encode()

    def server_bind(self) -> None:
        """Take the port without looking up the address's name, as `HTTPServer` would: a name server might be asked."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    @property
    def port(self) -> int:
        """Port that it listens on."""
        return self.server_address[1]

    @property
    def hosts(self) -> tuple[str, str]:
        """Host headers that name this server."""
        return f"{ADDRESS}:{self.port}", f"localhost:{self.port}"

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: object) -> None:
        """Say nothing of a reader that left in the middle; anything else is shown as usual."""
        import sys

        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def render_page(writers: Sequence[Writer], defaults: WritingSettings) -> str:
    """Make the page of some models."""
    from dataclasses import asdict

    from babyllama.pages.run_page import page_templates

    values = {**asdict(defaults.sampling), "max_new_tokens": defaults.max_new_tokens, "seed": defaults.seed}
    runs = [{"name": writer.name, "parameters": writer.num_parameters, "window": writer.window} for writer in writers]
    template = page_templates().get_template("play.html.j2")
    return template.render(runs=runs, values=values, stop="\n".join(defaults.stop))


class PlayHandler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: PlayServer
    server_version, sys_version = "babyllama", ""

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: prompts are nobody's business, and the terminal belongs to the command."""

    def do_GET(self) -> None:
        """Serve the page and its two files."""
        path = self.path.split("?")[0]
        if not self._from_here():
            return
        if path == "/":
            self._send(self.server.page, "text/html; charset=utf-8")
        elif path in STATIC:
            self._send((resources.files("babyllama.play") / "static" / path[1:]).read_bytes(), STATIC[path])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")

    def do_POST(self) -> None:
        """Write, or colour a text."""
        actions = {"/write": self._write, "/surprisal": self._surprisal}
        if not self._from_here():
            return
        if self.path not in actions:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")
            return
        try:
            given = self._json()
            actions[self.path](given)
        except BabyLlamaError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))

    # Who may ask

    def _from_here(self) -> bool:
        """Refuse what another origin sends, and names that are not this server's."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host not in self.server.hosts:
            self._refuse(HTTPStatus.FORBIDDEN, f"this server is {self.server.hosts[0]}")
            return False
        foreign = origin is not None and origin not in [f"http://{name}" for name in self.server.hosts]
        if foreign or self.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            self._refuse(HTTPStatus.FORBIDDEN, "requests of other pages are refused")
            return False
        return True

    def _json(self) -> dict[str, Any]:
        """Read the request's JSON object."""
        if self.headers.get_content_type() != "application/json":
            raise ConfigError("Content-Type: application/json is needed")
        length = self.headers.get("Content-Length", "")
        counted = length.isdecimal() and len(length) < 20
        if not counted or int(length) > MOST_BYTES:
            if counted:  # a sender that is not read meets a closed door instead of the line
                self.rfile.read(min(int(length), 10 * MOST_BYTES))
            raise ConfigError(f"a request of at most {MOST_BYTES:,} bytes, with its length, is needed")
        try:
            given = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the request is no JSON: {error}") from None
        if not isinstance(given, dict):
            raise ConfigError("a JSON object is needed")
        return given

    def _chosen(self, given: Mapping[str, Any], name: str) -> tuple[Writer, str]:
        """Return the run and the text that a request names."""
        number, text = given.get("run", 0), given.get(name, "")
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(self.server.writers):
            raise ConfigError(f"run {number!r}: there are {len(self.server.writers)}, from 0")
        if not isinstance(text, str):
            raise ConfigError(f"{name}: a text is needed")
        # A lone half of a surrogate pair is legal JSON and no Unicode text.
        return self.server.writers[number], text.encode("utf-8", "replace").decode()

    # Answers

    def _write(self, given: Mapping[str, Any]) -> None:
        """Send a text as it is written; a reader that leaves ends the writing."""
        writer, prompt = self._chosen(given, "prompt")
        wanted = given.get("settings") or {}
        if not isinstance(wanted, dict):
            raise ConfigError("settings: an object of names and values is needed")
        settings = settings_from(wanted)
        self._head(HTTPStatus.OK, "text/event-stream; charset=utf-8")
        started = time.perf_counter()
        try:
            for piece in writer.write(prompt, settings):
                if self._reader_left():
                    return
                if piece.text:
                    self._event("text", {"text": piece.text, "tokens": piece.tokens})
                if piece.ended:
                    seconds = time.perf_counter() - started
                    self._event("end", {"reason": piece.ended, "tokens": piece.tokens, "seconds": seconds})
        except ConnectionError:
            return
        except Exception as error:  # the answer has begun: the page is told in its own stream
            self._event("error", {"error": f"{type(error).__name__}: {error}"})

    def _surprisal(self, given: Mapping[str, Any]) -> None:
        """Send the pieces of a text."""
        writer, text = self._chosen(given, "text")
        if len(text) > MOST_CHARACTERS:
            raise ConfigError(f"a text of at most {MOST_CHARACTERS:,} characters can be coloured")
        self._send(json.dumps(colour(writer, text)).encode(), "application/json")

    def _event(self, name: str, data: Mapping[str, Any]) -> None:
        self.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def _reader_left(self) -> bool:
        """Return whether the other side has closed the connection (Stop, or a closed tab)."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._send(json.dumps({"error": why}).encode(), "application/json", status)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._head(status, kind, len(body))
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        fixed = {
            "Content-Type": kind,
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-store",
        }
        for name, value in fixed.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
