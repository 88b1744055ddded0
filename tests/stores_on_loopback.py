"""Object storage for tests: moto's server on loopback, a stand-in for S3 without any claim on durability."""

import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
}  # fmt: skip


class Storage:
    """A server process that speaks S3, and how to make buckets in it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._log, path = tempfile.mkstemp()  # of requests
        Path(path).unlink()
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        self._buckets = 0
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/moto-api/data.json").close()
                return
            except OSError:
                assert self._process.poll() is None and time.monotonic() < until, "moto does not start"
                time.sleep(0.05)

    @property
    def environment(self) -> dict[str, str]:
        """What leads to it."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}

    def bucket(self) -> str:
        """The URI of a new bucket."""
        self._buckets += 1
        name = f"bucket-{self.port}-{self._buckets}"
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        urllib.request.urlopen(request).close()
        return f"s3://{name}"

    def reads(self, uri: str) -> list[str]:
        """The objects below a URI that were read so far, each as often as it was."""
        place = re.escape(uri.removeprefix("s3:/"))
        requests = os.pread(self._log, 1 << 26, 0).decode()
        return [f"s3:/{name}" for name in re.findall(rf'"GET ({place}/\S+) ', requests)]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._log)


@contextmanager
def refusing(reading: bool = True) -> Iterator[dict[str, str]]:
    """A server that answers all as S3 does to wrong credentials; the environment that leads to it.

    Where `reading` is not refused, it says that nothing is there: as to credentials that may only read.
    """

    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            refused = reading or self.command == "PUT"
            status, code = (403, "InvalidAccessKeyId") if refused else (404, "NoSuchKey")
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
