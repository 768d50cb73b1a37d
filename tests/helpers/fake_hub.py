"""A loopback server that is as much of the Hugging Face hub as pushing a model and fetching it again takes."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def reply(self, data, status=200, **headers):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self):
        path, body = urlsplit(self.path).path, self.body()
        if path == "/api/repos/create":
            made = json.loads(body)
            self.server.created.append(made)
            name = f"{made.get('organization') or 'user'}/{made['name']}"
            self.reply({"url": f"{self.server.url}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.reply({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
        elif "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.url}/user/model/commit/{COMMIT}"
            self.reply({"success": True, "commitOid": COMMIT, "commitUrl": url})
        else:
            self.reply({"error": path}, 404)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, files = unquote(urlsplit(self.path).path), self.server.files
        name = path.rpartition("/")[2]
        if "user/model" not in path or (not files):
            self.reply({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif "/resolve/" in path and name in files:
            self.reply(files[name], ETag=f'"{name}-{len(files[name])}"', X_Repo_Commit=COMMIT)
        elif "/tree/" in path:
            listed = [{"type": "file", "path": each, "size": len(data), "oid": each} for each, data in files.items()]
            self.reply(listed)
        elif path.startswith("/api/models/"):
            siblings = [{"rfilename": each} for each in files]
            self.reply({"id": "user/model", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        else:
            self.reply({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")


@contextmanager
def hub():
    """The server; `url`; `created`: what was asked for; `files`: {name: bytes} of the one model, user/model."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.created, server.files = [], {}
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
