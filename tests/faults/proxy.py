"""A TCP proxy in front of a real server that misbehaves on demand: slow, cutting connections, answering 503."""

import socket
import threading
import time
from urllib.parse import urlsplit

BLOCK = 16 << 10
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Forwards to `target` (http://host:port); `url` is where clients go. Attributes may be changed while it runs.

    bytes_per_second: together in both directions, over all connections; 0 is unlimited.
    cut_after: that many bytes of an answer and the connection breaks, as long as `cuts` lasts.
    refusals: so many connections are answered 503.
    silent: accepts connections and never answers; those that it has go silent, too.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self.target = (parts.hostname, parts.port)
        self.bytes_per_second, self.cut_after, self.cuts, self.refusals, self.silent = 0, 0, 0, 0, False
        self.forwarded = 0
        self._lock, self._next = threading.Lock(), 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        while self.silent:
            time.sleep(0.05)
        if self.refusals > 0:
            self.refusals -= 1
            client.recv(BLOCK)
            client.sendall(UNAVAILABLE)
            client.close()
            return
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * BLOCK)  # a slow store takes no megabytes in advance
        server = socket.create_connection(self.target)
        threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
        self._pump(server, client, True)

    def _pump(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        passed = 0
        try:
            while data := source.recv(BLOCK):
                self._wait_for(len(data))
                while self.silent:
                    time.sleep(0.05)
                target.sendall(data)
                passed += len(data)
                if is_answer and self.cuts > 0 and passed > self.cut_after:
                    self.cuts -= 1
                    break
        except OSError:  # one of the two hung up; the other hears of it now
            pass
        for side in (source, target):
            try:
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _wait_for(self, size: int) -> None:
        with self._lock:
            self.forwarded += size
            if not self.bytes_per_second:
                return
            start = max(self._next, time.monotonic())
            self._next = start + size / self.bytes_per_second
        time.sleep(max(0.0, start - time.monotonic()))
