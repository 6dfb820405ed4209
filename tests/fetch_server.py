"""An HTTP server that answers well, slowly, wrongly, partly or not at all, as the path says; and remembers all of it."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import struct
import threading
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import unquote

import numpy as np

PNG = b"\x89PNG\r\n\x1a\n"


def body_of(name: str, size: int = 3000) -> bytes:
    """What the server sends for a name: PNG's magic and bytes that the name fixes."""
    return PNG + np.random.default_rng(list(name.encode())).bytes(size)


@dataclass
class Server:
    """``with Server() as server``: listens on 127.0.0.1. The path's first part is the behaviour:

    /ok/N, /same/N (one body for all), /slow/N, /drip, /never, /status/CODE, /flaky/CODE/TIMES/N (then well),
    /busy/SECONDS/N (429 with Retry-After once, then well), /page/TYPE, /empty, /large/N, /large-chunked/N (N bytes),
    /bomb/N (N bytes, gzipped), /gzip/N, /badgzip, /truncated, /truncated-chunked, /reset, /hangup, /garbage, /loop,
    /chain/N (N redirects), /to/URL (a redirect), /cookie/N
    """

    tls: ssl.SSLContext | None = None
    requests: list[tuple[str, str, dict[str, str], float]] = field(default_factory=list)
    most: int = 0
    most_of_host: Counter[str] = field(default_factory=Counter)
    sent: int = 0

    def __enter__(self) -> Server:
        self._open: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}/{path}"

    @property
    def asked(self) -> Counter[str]:
        """How often each path was asked for."""
        return Counter(path for _, path, _, _ in self.requests)

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def serve() -> None:
            self._stop = asyncio.Event()
            self._tasks: set[asyncio.Task[None]] = set()
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self.tls)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await self._stop.wait()
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._loop.run_until_complete(serve())
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            while await self._answer(reader, writer):
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort() if self._stop.is_set() else writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = unquote(head[0].split(" ")[1].lstrip("/"))
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
        host = headers["host"]
        self.requests.append((host, path, headers, time.monotonic()))
        self._open[host] += 1
        self.most = max(self.most, self._open.total())
        self.most_of_host[host] = max(self.most_of_host[host], self._open[host])
        try:
            return await self._behave(path, writer)
        finally:
            self._open[host] -= 1

    async def _behave(self, path: str, writer: asyncio.StreamWriter) -> bool:
        kind, _, rest = path.partition("/")
        nth = self.asked[path]
        if kind == "slow":
            await asyncio.sleep(0.02)
        elif kind == "never":
            await asyncio.sleep(60)
        elif kind == "status":
            return _send(writer, int(rest))
        elif kind == "flaky" and nth <= int(rest.split("/")[1]):
            return _send(writer, int(rest.split("/")[0]))
        elif kind == "busy" and nth == 1:
            return _send(writer, 429, headers={"Retry-After": rest.split("/")[0]})
        elif kind == "page":
            texts = {"html": b"<!DOCTYPE html><p>Gone", "json": b'{"error": 1}', "text": b"no such picture\n"}
            texts["svg"] = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'
            return _send(writer, 200, texts[rest], {"Content-Type": "image/jpeg"})
        elif kind == "empty":
            return _send(writer, 200)
        elif kind == "large":
            return await self._stream(writer, int(rest), f"Content-Length: {rest}")
        elif kind == "large-chunked":
            return await self._stream(writer, int(rest), "Transfer-Encoding: chunked")
        elif kind in ("bomb", "gzip"):
            data = _bomb(int(rest)) if kind == "bomb" else gzip.compress(body_of(path))
            return _send(writer, 200, data, {"Content-Encoding": "gzip"})
        elif kind == "badgzip":
            return _send(writer, 200, b"no gzip at all", {"Content-Encoding": "gzip"})
        elif kind == "truncated":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + body_of(path, 1000))
            return False
        elif kind == "truncated-chunked":
            writer.write(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n" + body_of(path, 1000)
            )
            return False
        elif kind == "drip":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
            for byte in body_of(path):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.02)
        elif kind == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return False
        elif kind == "hangup":
            return False
        elif kind == "garbage":
            writer.write(b"SSH-2.0-OpenSSH_9.0\r\n\r\n")
            return False
        elif kind == "loop":
            return _send(writer, 302, headers={"Location": "/loop"})
        elif kind == "chain" and int(rest):
            return _send(writer, 301, headers={"Location": f"/chain/{int(rest) - 1}"})
        elif kind == "to":
            return _send(writer, 302, headers={"Location": rest, "Set-Cookie": "a=b"})
        cookie = {"Set-Cookie": "session=secret"} if kind == "cookie" else {}
        return _send(writer, 200, body_of("same" if kind == "same" else path), cookie)

    async def _stream(self, writer: asyncio.StreamWriter, size: int, header: str) -> bool:
        writer.write(f"HTTP/1.1 200 OK\r\n{header}\r\n\r\n".encode())
        block = PNG + bytes(65536 - len(PNG))
        chunked = "chunked" in header
        for start in range(0, size, len(block)):
            part = block[: size - start]
            writer.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
            await writer.drain()
            self.sent += len(part)
        writer.write(b"0\r\n\r\n" if chunked else b"")
        return True


def _bomb(size: int) -> bytes:
    """PNG's magic and ``size`` zeros, gzipped, without ever holding them."""
    out, zeros = zlib.compressobj(wbits=31), bytes(1_000_000)
    parts = [out.compress(PNG), *(out.compress(zeros[: size - k]) for k in range(0, size, len(zeros)))]
    return b"".join([*parts, out.flush()])


def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes = b"", headers: dict[str, str] | None = None
) -> bool:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    return True
