"""A real S3 server for the tests: moto's, in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid

import httpx

# Any will do, until `refuse`.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


class S3Server:
    """Keeps its objects in memory: to be away for a while it is paused, not killed."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._http = httpx.Client(base_url=self.url, trust_env=False)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", str(port)],
            env=os.environ | CREDENTIALS,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(600):
            try:
                self._http.get("/moto-api/")
                return
            except httpx.TransportError:
                assert self._process.poll() is None
                time.sleep(0.05)
        raise AssertionError("moto did not start")

    def bucket(self) -> str:
        """Make a bucket and return the URL of a store in it."""
        name = f"b{uuid.uuid4().hex}"
        self._http.put(f"/{name}").raise_for_status()
        return self.store(name)

    def store(self, bucket: str) -> str:
        """Return the URL of a store in a bucket that there may not be."""
        return f"s3://{bucket}/some/where?endpoint={self.url}"

    def objects(self, store: str) -> bytes:
        """Return the listing of a store's bucket, XML."""
        return self._http.get(f"/{store.split('/')[2]}").content

    def damage(self, store: str, key: str, content: bytes) -> None:
        """Write other bytes under a key of a store."""
        bucket, prefix = store.split("?", maxsplit=1)[0].removeprefix("s3://").split("/", 1)
        signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/1/us-east-1/s3/aws4_request"}
        path = f"/{bucket}/{prefix}/{key}"
        self._http.put(path, content=content, headers=signed).raise_for_status()

    def refuse(self, count: float = 0) -> None:
        """Believe in credentials no more, after so many requests."""
        self._http.post("/moto-api/reset-auth", content=str(count)).raise_for_status()

    def pause(self) -> None:
        """Answer nothing, as a machine whose network cable is out."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._http.close()
        self._process.kill()
        self._process.wait()
