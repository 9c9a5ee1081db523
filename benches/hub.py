#!/usr/bin/env python3
"""Download speed against Python's huggingface_hub, from one server on loopback, in one run.

    pip install huggingface_hub
    cargo build --release
    python3 benches/hub.py [--megabytes 1024] [--rounds 5]

The server sends one large file and one small one from memory. Rounds alternate between the two clients, each with an
empty cache; the file system is the one of --folder. fireside hashes every byte and waits for the disk (fsync) before a
file becomes visible; huggingface_hub does neither.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "c" * 40
PYTHON = "import sys; from huggingface_hub import snapshot_download; snapshot_download('bench/model', allow_patterns=['big.bin', 'small.txt'])"


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files = {}  # name -> (bytes, hash, is_large)
    limit, due, turn = 0, 0.0, threading.Lock()

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        if "/revision/" in path:
            listing = [{"rfilename": name} for name in self.files]
            return self.answer(json.dumps({"id": "bench/model", "sha": COMMIT, "siblings": listing}).encode())
        if "/tree/" in path:
            entries = []
            for name, (content, digest, large) in self.files.items():
                entry = {"type": "file", "path": name, "size": len(content), "oid": "0" * 40 if large else digest}
                if large:
                    entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
                entries.append(entry)
            return self.answer(json.dumps(entries).encode())
        found = re.fullmatch(r"/bench/model/resolve/[^/]+/(.+)", path)
        if not found or found[1] not in self.files:
            return self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
        content, digest, _ = self.files[found[1]]
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self.answer(content, 200, headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self.answer(memoryview(content)[first : last + 1], 206, headers)

    def answer(self, body, status=200, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET" and self.limit:
            self.send_slowly(body)
        elif self.command == "GET":
            self.wfile.write(body)

    def send_slowly(self, body):
        """All connections together send --limit MiB a second."""
        for start in range(0, len(body), 1 << 18):
            piece = body[start : start + (1 << 18)]
            with self.turn:
                Hub.due = max(Hub.due, time.monotonic()) + len(piece) / (self.limit << 20)
                wait = Hub.due - time.monotonic()
            time.sleep(max(wait, 0))
            self.wfile.write(piece)


class Server(socketserver.ThreadingMixIn, HTTPServer):
    daemon_threads = True


def seconds_of(command, folder, address):
    """One download into an empty cache."""
    home = tempfile.mkdtemp(dir=folder)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    variables = {"HF_HOME": home, "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    start = time.monotonic()
    subprocess.run(command, env=kept | variables, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - start
    shutil.rmtree(home)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024, help="size of the large file, in MiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=0, help="MiB per second that the server sends; 0 for all it can")
    parser.add_argument("--folder", type=Path, default=None, help="where the caches are made")
    parser.add_argument("--fireside", type=Path, nargs="+", default=[ROOT / "target/release/fireside"], help="several are compared")
    args = parser.parse_args()
    big = os.urandom(1 << 20) * args.megabytes
    small = b"a small file\n"
    Hub.files = {
        "big.bin": (big, hashlib.sha256(big).hexdigest(), True),
        "small.txt": (small, hashlib.sha1(b"blob %d\0" % len(small) + small).hexdigest(), False),
    }
    Hub.limit = args.limit
    server = Server(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    clients = {str(program): [program, "pull", "bench/model", "--file", "*"] for program in args.fireside}
    clients["huggingface_hub"] = [sys.executable, "-c", PYTHON]
    times = {name: [] for name in clients}
    for _ in range(args.rounds):
        for name, command in clients.items():
            times[name].append(seconds_of(command, args.folder, address))
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        print(f"{name}: {middle:.2f} s, {args.megabytes / middle:.0f} MiB/s ({', '.join(f'{s:.2f}' for s in seconds)})")


if __name__ == "__main__":
    main()
