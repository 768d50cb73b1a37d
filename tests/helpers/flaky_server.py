"""A loopback HTTP server of a folder that answers ranges, and answers badly when told to."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        name = self.path.lstrip("/")
        with self.server.lock:
            self.server.asked.append((self.command, name))
            fault = self.server.fault(self.command, name) if self.server.fault else None
        file = self.server.folder / name
        if fault == "stall":
            self.server.over.wait(60)
        if fault in ("stall", "reset"):
            self.close_connection = True
            return
        if fault == "500" or not file.is_file():
            self.send_response(500 if fault == "500" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, status = file.read_bytes(), 200
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if found and fault != "whole":
            data, status = data[int(found[1]) : int(found[2]) + 1], 206
        if fault == "wrong":
            data = data[: len(data) // 2]
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if fault == "short" else data)
        if fault == "short":
            self.close_connection = True


@contextmanager
def serving(folder: Path, fault=None):
    """The server; `url`; `asked`: [(method, name)]; `fault(method, name)` names what goes wrong, or None."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.folder, server.fault, server.asked = folder, fault, []
    server.lock, server.over = threading.Lock(), threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
