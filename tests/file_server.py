"""A server of one file that misbehaves as it is told."""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serve CONTENT as `server.behaviour(handler, attempt)` decides."""

    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range"))
        self.server.behaviour(self, len(self.server.ranges))

    def log_message(self, *_):
        pass


def answer(handler, status=200, body=CONTENT, length=None, **headers):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for key, value in headers.items():
        handler.send_header(key.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def answer_range(handler, _attempt=0):
    """Serve as a server does that can continue a transfer."""
    requested = handler.headers.get("Range")
    if requested is None:
        return answer(handler)
    start = int(requested.removeprefix("bytes=").rstrip("-"))
    if start >= len(CONTENT):
        return answer(handler, 416, b"")
    span = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
    return answer(handler, 206, CONTENT[start:], Content_Range=span)


@contextmanager
def serving():
    """Serve on a free port until the end of the block."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.ranges, server.behaviour = [], answer_range
        server.daemon_threads = True
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
