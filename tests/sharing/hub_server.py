"""A small Hugging Face hub on 127.0.0.1 that keeps what it is told: repositories, branches, commits, files.

It speaks the part of the hub's HTTP interface that huggingface_hub uses to publish and to download. Small files come in
the commit itself; with `lfs=True` weights go through git-lfs's "basic" transfer as on the real hub without Xet.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secretsecretsecretsecretsecret"


@dataclass
class Commit:
    title: str
    parent: str | None
    files: dict[str, bytes]


@dataclass
class Repository:
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def add(self, title: str, parent: str | None, files: dict[str, bytes]) -> str:
        name = hashlib.sha1(f"{len(self.commits)}{title}".encode()).hexdigest()
        self.commits[name] = Commit(title, parent, files)
        return name

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)

    def files(self, branch: str) -> dict[str, bytes]:
        return self.commits[self.branches[branch]].files

    def history(self, revision: str) -> list[str]:
        name, found = self.resolve(revision), []
        while name is not None:
            found.append(name)
            name = self.commits[name].parent
        return found


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer:
    """The server and its state.

    Attributes:
        repositories: By "org/name".
        uploaded: (branch, path) of every file that a commit brought.
        requests: (method, path) of every request.
        before: Called with method and path before a request is answered, for tests that interrupt.
    """

    def __init__(self, lfs: bool = False) -> None:
        self.lfs, self.large = lfs, {}
        self.repositories: dict[str, Repository] = {}
        self.uploaded: list[tuple[str, str]] = []
        self.requests: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda method, path: None
        self.lock = Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # What the hub does; each returns (status, JSON)

    def create(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = f"{body['organization'] or 'me'}/{body['name']}"
        if body["organization"] == "not-mine":
            return 403, {"error": "You don't have the rights to create a model under the namespace"}
        if name in self.repositories:
            return 409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
        repository = self.repositories[name] = Repository(private=body.get("visibility") == "private")
        repository.branches["main"] = repository.add("initial commit", None, {".gitattributes": b"*.bin lfs\n"})
        return 200, {"url": f"{self.url}/{name}", "name": name}

    def branch(self, repository: Repository, name: str, body: dict[str, Any]) -> tuple[int, Any]:
        if name in repository.branches:
            return 409, {"error": "Reference already exists"}
        repository.branches[name] = repository.resolve(body.get("startingPoint", "main"))
        return 200, {}

    def tree(self, repository: Repository, revision: str) -> tuple[int, Any]:
        files = repository.commits[repository.resolve(revision)].files
        return 200, [self._entry(path, content) for path, content in sorted(files.items())]

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
        if self._is_large(path):
            oid = hashlib.sha256(content).hexdigest()
            entry |= {"oid": blob_id(b"pointer"), "lfs": {"oid": oid, "size": len(content), "pointerSize": 130}}
        return entry

    def _is_large(self, path: str) -> bool:
        return self.lfs and path.endswith(".safetensors")

    def preupload(self, body: dict[str, Any]) -> tuple[int, Any]:
        paths = [file["path"] for file in body["files"]]
        modes = {True: "lfs", False: "regular"}
        return 200, {
            "files": [{"path": p, "uploadMode": modes[self._is_large(p)], "shouldIgnore": False} for p in paths]
        }

    def commit(self, repository: Repository, name: str, branch: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        files = dict(repository.files(branch))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
                continue
            else:
                continue
            self.uploaded.append((branch, value["path"]))
        oid = repository.add(lines[0]["value"]["summary"], repository.branches[branch], files)
        repository.branches[branch] = oid
        return 200, {"commitOid": oid, "commitUrl": f"{self.url}/{name}/commit/{oid}", "success": True}

    def batch(self, body: dict[str, Any]) -> tuple[int, Any]:
        objects = []
        for wanted in body["objects"]:
            actions = {"upload": {"href": f"{self.url}/lfs/{wanted['oid']}", "header": {}}}
            objects.append(wanted | ({} if wanted["oid"] in self.large else {"actions": actions}))
        return 200, {"transfer": "basic", "objects": objects}

    def info(self, repository: Repository, name: str, revision: str) -> tuple[int, Any]:
        commit = repository.resolve(revision)
        if commit is None:
            return 404, {"error": "Invalid rev id"}
        siblings = [{"rfilename": path} for path in sorted(repository.commits[commit].files)]
        return 200, {"id": name, "modelId": name, "sha": commit, "private": repository.private, "siblings": siblings}


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    """The request handler of a hub."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _answer(self, status: int, value: Any) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if status >= 400 and "error" in value:
                self.send_header("X-Error-Message", value["error"])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _serve(self) -> None:
            path, body = unquote(urlsplit(self.path).path), self._body()
            hub.requests.append((self.command, path))
            hub.before(self.command, path)
            if path.startswith("/lfs/"):
                hub.large[path.removeprefix("/lfs/")] = body
                return self._answer(200, {})
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._answer(401, {"error": "Invalid username or password."})
            with hub.lock:
                if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
                    return self._file(*found.groups())
                return self._answer(*_route(hub, self.command, path, body))

        def _file(self, name: str, revision: str, path: str) -> None:
            repository = hub.repositories[name]
            commit = repository.resolve(revision)
            content = None if commit is None else repository.commits[commit].files.get(path)
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "RevisionNotFound" if commit is None else "EntryNotFound")
            self.send_header("X-Repo-Commit", commit or "")
            self.send_header("ETag", f'"{blob_id(content or b"")}"')
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "GET" and content is not None:
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = _serve  # noqa: N815

    return Handler


def _route(hub: HubServer, method: str, path: str, body: bytes) -> tuple[int, Any]:
    """Answer a request of the interface."""
    if path == "/api/validate-yaml":
        return 200, {"errors": [], "warnings": []}
    if path == "/api/repos/create":
        return hub.create(json.loads(body))
    if path.endswith(".git/info/lfs/objects/batch"):
        return hub.batch(json.loads(body))
    name, _, rest = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/(.*))?", path).groups()
    repository = hub.repositories.get(name)
    if repository is None:
        return 404, {"error": "Repository not found"}
    action, _, revision = (rest or "revision/main").partition("/")
    if action == "refs":
        branches = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": c} for b, c in repository.branches.items()]
        return 200, {"branches": branches, "converts": [], "tags": []}
    if action == "commits":
        facts = {"authors": [], "date": "2026-01-01T00:00:00.000Z", "message": ""}
        return 200, [{"id": c, "title": repository.commits[c].title, **facts} for c in repository.history(revision)]
    if action == "tree":
        return hub.tree(repository, revision)
    if action == "preupload":
        return hub.preupload(json.loads(body))
    if action == "branch":
        return hub.branch(repository, revision, json.loads(body))
    if action == "commit":
        return hub.commit(repository, name, revision, [json.loads(line) for line in body.splitlines()])
    return hub.info(repository, name, revision)
