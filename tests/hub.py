"""A stand-in for the Hugging Face Hub on loopback: what huggingface_hub asks for to publish a model, answered as the Hub does.

Repositories with branches and commits, the LFS batch endpoint with its uploads (whole or in parts), preupload, commit (412 where
``parentCommit`` is not the head, 400 where a large file was never uploaded), tokens, and faults that a test asks for.
"""

import base64
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

TOKEN = "hf_owner"  # may write to org
READER = "hf_reader"  # may read what is public
LFS_PATTERNS = ("*.safetensors", "*.gguf", "*.bin", "*.model")
ATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS).encode()
LARGE_BYTES = 10 * 2**20  # a file of this size goes to LFS whatever its name


@dataclass
class Repo:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes | str]] = field(
        default_factory=dict
    )  # by file: content, or the oid of an LFS file
    titles: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes | str], title: str) -> str:
        oid = uuid.uuid4().hex + "00000000"
        self.commits[oid], self.branches[branch] = files, oid
        self.titles.append(title)
        return oid

    def at(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


class Hub:
    """``faults``: a test's functions of (method, path), asked before each request; what one raises is the answer.
    ``cuts``: how many uploads are still to be cut in the middle by closing their connection.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}  # LFS content by sha-256
        self.parts: dict[str, dict[int, bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.uploaded: list[tuple[str, int]] = []  # oid and bytes of each upload that arrived whole
        self.faults: list[Callable[[str, str], None]] = []
        self.cuts = 0
        self.part_bytes: int | None = None  # larger uploads go in parts of this size
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """What a clone would have at a revision."""
        found = self.repos[repo].commits[self.repos[repo].branches[revision]]
        return {name: self.objects[entry] if isinstance(entry, str) else entry for name, entry in found.items()}

    def asks(self, method: str, part: str) -> int:
        return sum(asked == method and part in path for asked, path in self.asked)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        with self.hub.lock:
            self.hub.asked.append((self.command, path))
        self.body = b""
        try:
            if self.command == "PUT" and not self._read_upload():
                return
            if self.command == "POST":
                self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            for fault in self.hub.faults:
                fault(self.command, path)
            with self.hub.lock:
                self._route(path)
        except Refused as refused:
            self._send(
                refused.status,
                json.dumps({"error": refused.message}).encode(),
                {
                    **({"X-Error-Code": refused.code} if refused.code else {}),
                    "X-Error-Message": refused.message,
                    **refused.headers,
                },
            )
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_PUT = _serve

    def _read_upload(self) -> bool:
        """The body; half of it, and the connection closed, where the upload is to be cut."""
        length = int(self.headers.get("Content-Length", 0))
        with self.hub.lock:
            cut = self.hub.cuts > 0
            self.hub.cuts -= cut
        self.body = self.rfile.read(length // 2 if cut else length)
        if cut:
            self.close_connection = True
            self.connection.shutdown(2)
        return not cut and len(self.body) == length

    def _route(self, path: str) -> None:
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if method == self.command and match:
                answer(self, *match.groups())
                return
        raise Refused(404, f"no such endpoint: {self.command} {path}")

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode())

    def _token(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        if token is not None:
            self.hub.tokens.add(token)
            if token not in (TOKEN, READER):
                raise Refused(401, "Invalid credentials in Authorization header")
        return token

    def _repo(self, name: str, write: bool = False) -> Repo:
        """A repository that the token may see; one that it may not see is not found, as on the Hub."""
        token, repo = self._token(), self.hub.repos.get(name)
        if repo is None or (repo.private and token != TOKEN):
            raise Refused(404 if token else 401, "Repository not found", "RepoNotFound")
        if write and token != TOKEN:
            raise Refused(403 if token else 401, "You do not have the permission to write to this repository")
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> str:
        commit = repo.at(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def create(self) -> None:
        asked, token = json.loads(self.body), self._token()
        if token is None:
            raise Refused(401, "Invalid username or password.")
        if token != TOKEN or asked["organization"] != "org":
            raise Refused(403, f"You don't have the rights to create a model under {asked['organization']}")
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repos:
            raise Refused(409, "You already created this model repo")
        self.hub.repos[name] = Repo(asked.get("visibility") == "private" or bool(asked.get("private")))
        self.hub.repos[name].commit("main", {".gitattributes": ATTRIBUTES}, "initial commit")
        self._json({"url": f"{self.hub.url}/{name}", "name": name})

    def info(self, name: str, revision: str | None = None) -> None:
        repo = self._repo(name)
        sha = self._commit_of(repo, revision or "main")
        self._json({"id": name, "sha": sha, "private": repo.private, "siblings": []})

    def branch(self, name: str, branch: str) -> None:
        repo = self._repo(name, write=True)
        if branch in repo.branches:
            raise Refused(409, "Reference already exists")
        repo.branches[branch] = self._commit_of(repo, json.loads(self.body or b"{}").get("startingPoint", "main"))
        self._send(201, b"")

    def tree(self, name: str, revision: str) -> None:
        repo = self._repo(name)
        files = repo.commits[self._commit_of(repo, revision)]
        folders = {name.rpartition("/")[0] for name in files} - {""}
        self._json(
            [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in sorted(folders)]
            + [self._entry(path, files[path]) for path in sorted(files)]
        )

    def paths_info(self, name: str, revision: str) -> None:
        repo = self._repo(name)
        files = repo.commits[self._commit_of(repo, revision)]
        paths = parse_qs(self.body.decode())["paths"]
        self._json([self._entry(path, files[path]) for path in paths if path in files])

    def _entry(self, path: str, entry: bytes | str) -> dict[str, Any]:
        if isinstance(entry, bytes):
            return {"type": "file", "path": path, "oid": _blob(entry), "size": len(entry)}
        size = len(self.hub.objects[entry])
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{entry}\nsize {size}\n".encode()
        lfs = {"oid": entry, "size": size, "pointerSize": len(pointer)}
        return {"type": "file", "path": path, "oid": _blob(pointer), "size": size, "lfs": lfs}

    def validate(self) -> None:
        block = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        if block is None or not isinstance(yaml.safe_load(block[1]), dict):
            raise Refused(400, "no metadata")
        self._json({"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        repo = self._repo(name, write=True)
        there = repo.commits[self._commit_of(repo, revision)]

        def told(file: dict[str, Any]) -> dict[str, Any]:
            path = file["path"]
            lfs = file["size"] > LARGE_BYTES or any(fnmatch(path, pattern) for pattern in LFS_PATTERNS)
            entry = there.get(path)
            oid = {} if entry is None else {"oid": entry if isinstance(entry, str) else _blob(entry)}
            return {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, **oid}

        self._json({"files": [told(file) for file in json.loads(self.body)["files"]]})

    def batch(self, name: str) -> None:
        self._repo(name, write=True)
        self._json({"transfer": "basic", "objects": [self._upload_of(e) for e in json.loads(self.body)["objects"]]})

    def _upload_of(self, wanted: dict[str, Any]) -> dict[str, Any]:
        oid, size = wanted["oid"], wanted["size"]
        if oid in self.hub.objects:
            return {"oid": oid, "size": size}
        verify = {"href": f"{self.hub.url}/lfs/verify"}
        part = self.hub.part_bytes
        if part is None or size <= part:
            return {
                "oid": oid,
                "size": size,
                "actions": {"upload": {"href": f"{self.hub.url}/lfs/{oid}"}, "verify": verify},
            }
        header = {str(i + 1): f"{self.hub.url}/lfs/{oid}/{i + 1}" for i in range(-(-size // part))}
        upload = {"href": f"{self.hub.url}/lfs/{oid}/complete", "header": {**header, "chunk_size": str(part)}}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}

    def upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "the content has another sha256")
        self.hub.objects[oid] = self.body
        self.hub.uploaded.append((oid, len(self.body)))
        self._send(200, b"")

    def upload_part(self, oid: str, part: str) -> None:
        self.hub.parts.setdefault(oid, {})[int(part)] = self.body
        self._send(200, b"", {"etag": f'"{_blob(self.body)}"'})

    def complete(self, oid: str) -> None:
        numbers = [part["partNumber"] for part in json.loads(self.body)["parts"]]
        self.body = b"".join(self.hub.parts[oid][number] for number in numbers)
        self.upload(oid)

    def verify(self) -> None:
        asked = json.loads(self.body)
        if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "no such object")
        self._json({})

    def commit(self, name: str, branch: str) -> None:
        repo = self._repo(name, write=True)
        head = self._commit_of(repo, branch)
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit", head) != head:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[head])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Refused(400, f"{value['path']} was never uploaded")
                files[value["path"]] = value["oid"]
            elif files.pop(value["path"], None) is None:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        oid = repo.commit(branch, files, header["summary"])
        self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    def resolve(self, name: str, revision: str, path: str) -> None:
        repo = self._repo(name)
        entry = repo.commits[self._commit_of(repo, revision)].get(path)
        if entry is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        content = self.hub.objects[entry] if isinstance(entry, str) else entry
        self._send(200, content, {"Content-Type": "application/octet-stream"})


NAME = r"([^/]+/[^/]+?)"
ROUTES = [
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("GET", rf"/api/models/{NAME}", _Handler.info),
    ("GET", rf"/api/models/{NAME}/revision/([^/]+)", _Handler.info),
    ("GET", rf"/api/models/{NAME}/tree/([^/]+)", _Handler.tree),
    ("POST", rf"/api/models/{NAME}/branch/([^/]+)", _Handler.branch),
    ("POST", rf"/api/models/{NAME}/paths-info/([^/]+)", _Handler.paths_info),
    ("POST", rf"/api/models/{NAME}/preupload/([^/]+)", _Handler.preupload),
    ("POST", rf"/api/models/{NAME}/commit/([^/]+)", _Handler.commit),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/lfs/([0-9a-f]{64})", _Handler.upload),
    ("PUT", r"/lfs/([0-9a-f]{64})/(\d+)", _Handler.upload_part),
    ("POST", r"/lfs/([0-9a-f]{64})/complete", _Handler.complete),
    ("POST", r"/lfs/verify", _Handler.verify),
    ("GET", rf"/{NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
]


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on loopback, which huggingface_hub takes for the one there is."""
    from huggingface_hub import constants

    found = Hub()
    template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
    settings = {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "ENDPOINT": found.url}
    settings |= {"HUGGINGFACE_CO_URL_TEMPLATE": template}
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    yield found
    found.close()
