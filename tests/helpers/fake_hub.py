"""The part of the Hugging Face hub that uploads talk to, on loopback: repositories live in memory."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml


class FakeHub(ThreadingHTTPServer):
    """`files`: path in the repository -> bytes; `commits`: what each commit added; `created`: how repositories were."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.commits: list[dict[str, bytes]] = []
        self.created: list[dict] = []
        self.unknown: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        """Keeps requests out of the test's output."""

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_json(self, value: object) -> None:
        self.reply(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        _, resolve, name = self.path.partition("/resolve/main/")
        if not resolve:
            self.server.unknown.append(f"{self.command} {self.path}")
            self.reply(404)
        elif name in self.server.files:
            body = self.server.files[name]
            self.reply(200, body, ETag=hashlib.sha1(body).hexdigest(), X_Repo_Commit=self.commit_id())
        else:
            self.reply(404, X_Error_Code="EntryNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self.reply_json({"url": f"{self.server.endpoint}/me/ants"})
        elif self.path == "/api/validate-yaml":
            metadata = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            errors = [] if isinstance(metadata, dict) else [{"message": "no metadata"}]
            self.reply_json({"errors": errors, "warnings": []})
        elif self.path == "/api/models/me/ants/preupload/main":
            paths = [file["path"] for file in json.loads(body)["files"]]
            self.reply_json({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
        elif self.path == "/api/models/me/ants/commit/main":
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            added = {file["path"]: base64.b64decode(file["content"]) for file in files}
            self.server.commits.append(added)
            self.server.files |= added
            url = f"{self.server.endpoint}/me/ants/commit/{self.commit_id()}"
            self.reply_json({"commitUrl": url, "commitOid": self.commit_id()})
        else:
            self.server.unknown.append(f"POST {self.path}")
            self.reply(404)

    def commit_id(self) -> str:
        return f"{len(self.server.commits):040x}"


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that serves from a thread until the end of the `with` block."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
