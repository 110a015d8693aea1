"""HTTP/1.1 over kept-alive bare sockets: one request, one reply, no more than the AWS endpoints need.

Theory. A connection is idle, or it belongs to exactly one caller, from the first byte of the request to the last
byte of the reply. It returns to the pool only if the reply was framed (RFC 9112, section 6), was read to its very
end, nothing follows it, and the peer did not announce `close`. Everything else ends the connection, so a reply can
never be read as the answer to another request.

A sandbox is frozen between invocations, and its peers hang up meanwhile. So a kept connection may be dead without
our knowing. There are three ways to learn of it, and they are one case, `Dead`: the peer's goodbye is there before
we spoke, sending fails, or it ends before the first byte of a reply. Then the request is sent once
more, over a new connection, and this is no retry: nobody failed. A new connection that fails is `Broken`.

    kept connection   fails before the first byte of a reply    ->  reconnect once, the other idle ones are dropped
    new connection    cannot be opened                          ->  Broken
    any               silent for `read_timeout_s`, cut off,
                      ill-framed, larger than the bound         ->  Broken

TLS: `AWS_CA_BUNDLE` where it is set. Otherwise Amazon's five roots (`roots.pem`) for hosts under amazonaws.com,
because reading them takes 0.9 ms where the system's store takes 20; a host that they do not vouch for is tried
again with the system's store, as every AWS SDK would have done at once.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CONNECT_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 5.0  # without a byte
EXCHANGE_TIMEOUT_S = 30.0  # from the request to the last byte of its reply
MAX_HEAD_BYTES = 65_536
MAX_REPLY_BYTES = 80 * 1024 * 1024  # BatchGetItem answers with 16 MB, a blob has at most 64 MiB
MAX_INTERIM_REPLIES = 8  # «100 Continue» and its like
MAX_IDLE = 8  # connections kept for each endpoint
RECEIVE_BYTES = 65_536
SEND_BYTES = 262_144  # each such piece must be taken within the read timeout


class Broken(Exception):
    """The exchange did not complete; the text says where it stopped."""


class Oversized(Broken):
    """The reply is larger than we take."""


class Dead(Exception):
    """A kept connection was closed by the peer while nobody looked."""


class Reply:
    """`headers` have lower-case names; of a repeated header the last counts."""

    __slots__ = ("body", "headers", "reusable", "status", "wire_bytes")

    def __init__(self, status: int, headers: dict[str, str], body: bytes, reusable: bool, wire_bytes: int) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.reusable = reusable
        self.wire_bytes = wire_bytes


class Address:
    """Where to connect. `name` is the value of the `Host` header."""

    __slots__ = ("host", "name", "port", "secure")

    def __init__(self, secure: bool, host: str, port: int) -> None:
        self.secure = secure
        self.host = host
        self.port = port
        literal = f"[{host}]" if ":" in host else host
        self.name = literal if port == (443 if secure else 80) else f"{literal}:{port}"

    def __repr__(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.name}"


class Connection:
    """One open socket to one address. Not safe for two callers at once; the pool sees to that."""

    __slots__ = ("_buffer", "_deadline", "_read_timeout_s", "_received", "_socket", "used")

    def __init__(self, opened: socket.socket, read_timeout_s: float) -> None:
        self._socket = opened
        self._read_timeout_s = read_timeout_s
        self._buffer = bytearray()
        self._received = 0
        self._deadline = 0.0
        self.used = False

    def exchange(self, request: list[bytes], max_reply_bytes: int) -> Reply:
        """Send the pieces of one request and read its reply."""
        if self.used and self._is_gone():
            raise Dead
        self._received = 0
        self._deadline = time.monotonic() + EXCHANGE_TIMEOUT_S
        try:
            try:
                self._send(request)
            except ConnectionError:
                if self.used:
                    raise
                # A server may refuse a large body by its head alone, and hang up: its reply is worth reading.
            reply = self._read_reply(max_reply_bytes)
        except OSError as error:
            if self.used and self._received == 0 and not isinstance(error, TimeoutError):
                raise Dead from error
            raise Broken(_told(error)) from error
        self.used = True
        return reply

    def close(self) -> None:
        self._socket.close()

    def _is_gone(self) -> bool:
        """An idle connection has nothing to say, except goodbye. (TLS 1.3 has session tickets to say, which is why
        we look with `recv`, that takes them in, and do not ask whether the socket is readable.)"""
        try:
            self._socket.settimeout(0)
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except (OSError, ValueError):
            return True
        return True

    def _patience_s(self) -> float:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(f"no complete reply within {EXCHANGE_TIMEOUT_S:g} s")
        return min(left_s, self._read_timeout_s)

    def _send(self, request: list[bytes]) -> None:
        for piece in request:
            view = memoryview(piece)
            for start in range(0, len(piece), SEND_BYTES):
                self._socket.settimeout(self._patience_s())
                self._socket.sendall(view[start : start + SEND_BYTES])

    def _receive(self) -> bool:
        """Take what has arrived into the buffer; False at the end of the stream."""
        self._socket.settimeout(self._patience_s())
        data = self._socket.recv(RECEIVE_BYTES)
        self._received += len(data)
        self._buffer += data
        return bool(data)

    def _receive_or_fail(self) -> None:
        if not self._receive():
            if self._received == 0:
                raise ConnectionResetError("the connection was closed before the reply")
            raise Broken("the reply was cut off")

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive_or_fail()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _take_until(self, mark: bytes) -> bytes:
        """Everything before `mark`, which is dropped."""
        seen = 0
        while (at := self._buffer.find(mark, max(0, seen - len(mark)))) < 0:
            seen = len(self._buffer)
            if seen > MAX_HEAD_BYTES:
                raise Broken("the head of the reply is too long")
            self._receive_or_fail()
        taken = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return taken

    def _read_reply(self, max_reply_bytes: int) -> Reply:
        for _ in range(MAX_INTERIM_REPLIES):
            version, status, headers = _parse_head(self._take_until(b"\r\n\r\n"))
            if status >= 200:
                break
        else:
            raise Broken("too many interim replies")
        wanted = headers.get("connection", "").lower()
        reusable = "close" not in wanted and (version != "HTTP/1.0" or "keep-alive" in wanted)
        if status in (204, 304):
            body = b""
        elif "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked":
                raise Broken("the reply has an unknown transfer encoding")
            body = self._read_chunks(max_reply_bytes)
        elif "content-length" in headers:
            body = self._take(_parse_size(headers["content-length"], 10, max_reply_bytes))
        else:
            body = self._read_to_end(max_reply_bytes)
            reusable = False
        return Reply(status, headers, body, reusable and not self._buffer, self._received)

    def _read_chunks(self, max_reply_bytes: int) -> bytes:
        body = bytearray()  # no list of pieces: a chunk of one byte would cost forty there
        left = max_reply_bytes
        while size := _parse_size(self._take_until(b"\r\n").split(b";")[0].decode("latin-1").strip(), 16, left):
            left -= size
            body += self._take(size)
            if self._take(2) != b"\r\n":
                raise Broken("a chunk of the reply is ill-framed")
        trailer_bytes = 0
        while trailer := self._take_until(b"\r\n"):
            trailer_bytes += len(trailer)
            if trailer_bytes > MAX_HEAD_BYTES:
                raise Broken("the trailer of the reply is too long")
        return bytes(body)

    def _read_to_end(self, max_reply_bytes: int) -> bytes:
        more = True
        while more and len(self._buffer) <= max_reply_bytes:
            more = self._receive()
        return self._take(_bounded(len(self._buffer), max_reply_bytes))


class Pool:
    """The connections of one process. Safe for several threads."""

    def __init__(
        self,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._max_reply_bytes = max_reply_bytes
        self._idle: dict[tuple[bool, str, int], list[Connection]] = {}
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        self._lock = allocate_lock()
        self._process = os.getpid()
        self.opened = 0

    def connect(self, address: Address) -> None:
        """Open a connection, TLS included, and keep it; nothing is sent."""
        if not self._idle.get((address.secure, address.host, address.port)):
            self._keep(address, self._open(address))

    def exchange(self, address: Address, request: list[bytes]) -> Reply:
        """Send one request (its head and body, in pieces) and return the reply, whatever its status."""
        connection = self._take(address)
        if connection is not None:
            try:
                return self._through(connection, address, request)
            except Dead:
                self._drop(address)
        return self._through(self._open(address), address, request)

    def close(self) -> None:
        with self._lock:
            idle = [connection for kept in self._idle.values() for connection in kept]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def _through(self, connection: Connection, address: Address, request: list[bytes]) -> Reply:
        try:
            reply = connection.exchange(request, self._max_reply_bytes)
        except BaseException:
            connection.close()
            raise
        if reply.reusable:
            self._keep(address, connection)
        else:
            connection.close()
        return reply

    def _take(self, address: Address) -> Connection | None:
        with self._lock:
            if self._process != os.getpid():  # a fork must not share its parent's sockets
                self._process = os.getpid()
                self._idle.clear()
            kept = self._idle.get((address.secure, address.host, address.port))
            return kept.pop() if kept else None

    def _keep(self, address: Address, connection: Connection) -> None:
        connection.used = True
        with self._lock:
            kept = self._idle.setdefault((address.secure, address.host, address.port), [])
            if len(kept) < MAX_IDLE:
                kept.append(connection)
                return
        connection.close()

    def _drop(self, address: Address) -> None:
        """What happened to one idle connection during a freeze happened to all."""
        with self._lock:
            kept = self._idle.pop((address.secure, address.host, address.port), [])
        for connection in kept:
            connection.close()

    def _open(self, address: Address) -> Connection:
        try:
            opened = self._secure(address) if address.secure else self._reach(address)
        except OSError as error:
            raise Broken(f"cannot connect to {address!r}: {_told(error)}") from error
        self.opened += 1
        return Connection(opened, self._read_timeout_s)

    def _reach(self, address: Address) -> socket.socket:
        place: Any = (_plain(address.host), address.port)  # typeshed does not know that bytes will do
        opened = socket.create_connection(place, self._connect_timeout_s)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened

    def _secure(self, address: Address) -> socket.socket:
        roots = _roots_for(address.host)
        try:
            return self._handshake(address, roots)
        except ssl.SSLCertVerificationError:
            if roots != _AMAZON_ROOTS:
                raise
            return self._handshake(address, None)

    def _handshake(self, address: Address, roots: str | None) -> socket.socket:
        context = self._contexts.get(roots)
        if context is None:
            context = self._contexts[roots] = _context(roots)
        opened = self._reach(address)
        try:
            return context.wrap_socket(opened, server_hostname=_plain(address.host))
        except BaseException:
            opened.close()
            raise


def _plain(host: str) -> str | bytes:
    """A host as `socket` and `ssl` take it without loading the IDNA codec and its tables, 10 ms for nothing."""
    return host.encode() if host.isascii() else host


_AMAZON_ROOTS = os.path.join(os.path.dirname(__file__), "roots.pem")  # noqa: PTH118, PTH120  (pathlib is 5 ms)


def _roots_for(host: str) -> str | None:
    """The file of root certificates for this host; None for the system's store."""
    chosen = os.environ.get("AWS_CA_BUNDLE")
    if chosen:
        return chosen
    if host.endswith(".amazonaws.com") and "SSL_CERT_FILE" not in os.environ and "SSL_CERT_DIR" not in os.environ:
        return _AMAZON_ROOTS
    return None


def _context(roots: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the name and the chain
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if roots is None:
        context.load_default_certs()
    elif os.path.isdir(roots):  # noqa: PTH112
        context.load_verify_locations(capath=roots)
    else:
        context.load_verify_locations(roots)
    return context


def _told(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return str(error) or "timed out"
    return error.strerror or str(error) or type(error).__name__


def _parse_head(head: bytes) -> tuple[str, int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    code = rest[:3]
    if version not in ("HTTP/1.1", "HTTP/1.0") or len(code) != 3 or not (code.isascii() and code.isdigit()):
        raise Broken("the reply is not HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise Broken("a header of the reply is ill-formed")
        name = name.lower()
        value = value.strip()
        if name == "content-length" and headers.get(name, value) != value:
            raise Broken("the reply has two lengths")
        headers[name] = value
    return version, int(code), headers


def _parse_size(text: str, radix: int, bound: int) -> int:
    digits = "0123456789abcdef"[:radix]
    if not text or len(text) > 16 or any(character not in digits for character in text.lower()):
        raise Broken("the reply has an ill-formed length")
    return _bounded(int(text, radix), bound)


def _bounded(size: int, bound: int) -> int:
    if size > bound:
        raise Oversized("the reply is larger than we take")
    return size
