"""The shop: a small HTTP server that misbehaves on purpose, so that a job has something to survive.

    python -m handlers.demo.shop --port 8300 --db shop.db --misbehave 0.1 --seed 7

What happens to a request that changes something, in this order:

    1. too many requests in a short time    429 with Retry-After; nothing is applied
    2. bad luck                             500; nothing is applied
    3. not what the endpoint takes          400, 409 or 422; nothing is applied
    4. its Idempotency-Key was seen         the stored reply once more; nothing is applied again
    5. otherwise                            applied, and the reply is stored under the key, in one transaction
    6. bad luck of the other kind           the connection is cut instead of a reply: the caller cannot know

Everything is counted, and each row of the table says how often it was delivered and how often it was applied. So
work that was done twice is visible: `GET /stats`. Reads never misbehave. The table is a SQLite file and outlives
the shop; two shops on one file are one shop with two doors.

This file imports nothing of its package, because `Shop` starts it as a script.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from http.client import HTTPConnection
from pathlib import Path
from threading import Lock, Thread, Timer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MISBEHAVE = 0.1  # the share of requests that meet bad luck, half of them before and half after they are applied
RATE_PER_S = 20  # requests a second, and as many at once; 0 is no limit
SEED = 7
STOCK_AT_FIRST = 100  # what every warehouse shelf holds before anything was moved
MAX_ROWS = 10_000  # in one request
START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 5

SCHEMA = """
create table if not exists prices (
    sku text primary key, name text, price text, product integer, applied integer, delivered integer);
create table if not exists orders (
    row integer primary key, invoice text, sku text, description text, quantity integer, at text, price text,
    customer text, country text, cancelled integer, applied integer, delivered integer);
create table if not exists stock (place text, sku text, stock integer, primary key (place, sku));
create table if not exists replies (key text primary key, request text, reply text);
create table if not exists counts (endpoint text, what text, number integer, primary key (endpoint, what));
"""
PRICE_FIELDS = ("sku", "name", "price", "product")
ORDER_FIELDS = ("row", "invoice", "sku", "description", "quantity", "at", "price", "customer", "country", "cancelled")
COUNTED = ("requests", "applied", "repeated", "rejected", "failed", "refused", "lost")


class RefusedError(Exception):
    """The shop does not take this request, however often it is sent."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


# --------------------------------------------------------------------- what each endpoint does to the table
def load_prices(db: sqlite3.Connection, body: Any) -> dict[str, Any]:
    return {"loaded": upsert(db, "prices", PRICE_FIELDS, body)}


def load_orders(db: sqlite3.Connection, body: Any) -> dict[str, Any]:
    return {"loaded": upsert(db, "orders", ORDER_FIELDS, body)}


def move_stock(db: sqlite3.Connection, body: Any) -> dict[str, Any]:
    """The warehouse takes a change (so it matters that it is applied once) and tells what is left."""
    sku, change = fields_of(body, sku=str, change=int)
    left = stock_of(db, "warehouse", sku) + change
    if left < 0:
        raise RefusedError(409, f"the warehouse has only {left - change} of {sku}")
    return put_stock(db, "warehouse", sku, left)


def show_stock(db: sqlite3.Connection, body: Any) -> dict[str, Any]:
    return put_stock(db, "storefront", *fields_of(body, sku=str, stock=int))


def list_stock(db: sqlite3.Connection, body: Any) -> dict[str, Any]:
    """The marketplace lists products only: postage and bank charges are not for sale there."""
    sku, stock = fields_of(body, sku=str, stock=int)
    if not sku[:5].isdigit():
        raise RefusedError(422, f"the marketplace lists products only, and {sku} is none")
    return put_stock(db, "marketplace", sku, stock)


ENDPOINTS = {
    "/prices": load_prices,
    "/orders": load_orders,
    "/warehouse/stock": move_stock,
    "/storefront/stock": show_stock,
    "/marketplace/listing": list_stock,
}
DELIVERED_AGAIN = {
    "/prices": "update prices set delivered = delivered + 1 where sku = :sku",
    "/orders": "update orders set delivered = delivered + 1 where row = :row",
}


def upsert(db: sqlite3.Connection, table: str, fields: tuple[str, ...], rows: Any) -> int:
    if not isinstance(rows, list) or len(rows) > MAX_ROWS:
        raise RefusedError(400, f"the body must be a list of at most {MAX_ROWS} rows")
    for number, row in enumerate(rows, start=1):
        missing = [field for field in fields if field not in row] if isinstance(row, dict) else fields
        if missing:
            raise RefusedError(400, f"row {number} of the body has no {', '.join(missing)}")
    key, *others = fields
    statement = (
        f"insert into {table} ({', '.join(fields)}, applied, delivered) "
        f"values (:{', :'.join(fields)}, 1, 1) on conflict ({key}) do update set "
        f"{', '.join(f'{field} = excluded.{field}' for field in others)}, "
        "applied = applied + 1, delivered = delivered + 1"
    )
    try:
        db.executemany(statement, rows)
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError, OverflowError) as error:
        raise RefusedError(400, f"the body has a value that the table does not take: {error}") from None
    return len(rows)


def fields_of(body: Any, **kinds: type) -> list[Any]:
    for name, kind in kinds.items():
        if not isinstance(body, dict) or type(body.get(name)) is not kind:
            raise RefusedError(400, f"the body must be an object with {name!r} ({kind.__name__})")
    return [body[name] for name in kinds]


def stock_of(db: sqlite3.Connection, place: str, sku: str) -> int:
    found = db.execute("select stock from stock where place = ? and sku = ?", (place, sku)).fetchone()
    return int(found[0]) if found else STOCK_AT_FIRST


def put_stock(db: sqlite3.Connection, place: str, sku: str, stock: int) -> dict[str, Any]:
    db.execute("insert or replace into stock values (?, ?, ?)", (place, sku, stock))
    return {"sku": sku, "stock": stock}


# ------------------------------------------------------------------------------------------------ the table
class Table:
    """The shop's SQLite file. `take` is one transaction: what a request changes, its stored reply and its count."""

    def __init__(self, file: str) -> None:
        self.db = sqlite3.connect(file, timeout=30, isolation_level=None)
        self.db.execute("pragma journal_mode = wal")
        self.db.execute("pragma synchronous = normal")
        self.db.executescript(SCHEMA)

    def count(self, endpoint: str, what: str) -> None:
        self.db.execute(
            "insert into counts values (?, ?, 1) on conflict do update set number = number + 1", (endpoint, what)
        )

    def take(self, endpoint: str, key: str | None, text: bytes) -> Any:
        """Apply a request, unless its key was seen, and return the reply. Raises `RefusedError`."""
        try:
            body = json.loads(text)
        except ValueError as error:
            raise RefusedError(400, f"the body is no JSON: {error}") from None
        request = f"{endpoint} {hashlib.sha256(text).hexdigest()}"
        with self.db:
            self.db.execute("begin immediate")
            seen = self.db.execute("select request, reply from replies where key = ?", (key,)).fetchone()
            if seen is None:
                reply = ENDPOINTS[endpoint](self.db, body)
                if key is not None:
                    self.db.execute("insert into replies values (?, ?, ?)", (key, request, json.dumps(reply)))
                self.count(endpoint, "applied")
                return reply
            if seen[0] != request:
                raise RefusedError(422, "the Idempotency-Key was used for another request")
            if endpoint in DELIVERED_AGAIN:
                self.db.executemany(DELIVERED_AGAIN[endpoint], body)
            self.count(endpoint, "repeated")
            return json.loads(seen[1])

    def prices(self) -> list[dict[str, Any]]:
        fields = (*PRICE_FIELDS, "applied", "delivered")
        found = self.db.execute(f"select {', '.join(fields)} from prices order by sku")
        return [dict(zip(fields, row, strict=True)) for row in found]

    def stock(self, sku: str) -> dict[str, int]:
        return {place: stock_of(self.db, place, sku) for place in ("warehouse", "storefront", "marketplace")}

    def totals(self, table: str) -> dict[str, int]:
        """Rows, and the sums that say whether one of them was delivered or applied more than once."""
        fields = ("rows", "applied", "delivered", "applied_twice_or_more")
        sums = "count(*), total(applied), total(delivered), total(applied > 1)"
        found = self.db.execute(f"select {sums} from {table}").fetchone()
        return {field: int(number) for field, number in zip(fields, found, strict=True)}

    def stats(self) -> dict[str, Any]:
        counts = {endpoint: dict.fromkeys(COUNTED, 0) for endpoint in ENDPOINTS}
        for endpoint, what, number in self.db.execute("select * from counts"):
            counts[endpoint][what] = number
        return {"endpoints": counts, "tables": {name: self.totals(name) for name in ("prices", "orders")}}


# -------------------------------------------------------------------------------------------- the bad manners
class Bucket:
    """A token bucket: `rate` requests a second, and as many at once after a pause."""

    def __init__(self, rate: float, now_s: float) -> None:
        self.rate = rate
        self.tokens = rate
        self.filled_s = now_s

    def wait_s(self, now_s: float) -> int:
        """Take a token and return 0, or return the whole seconds (Retry-After knows no others) to come back in."""
        if not self.rate:
            return 0
        self.tokens = min(self.rate, self.tokens + (now_s - self.filled_s) * self.rate)
        self.filled_s = now_s
        if self.tokens >= 1:
            self.tokens -= 1
            return 0
        return max(1, -int((self.tokens - 1) // self.rate))


async def hang_up(request: Request) -> None:
    """Cut the connection under the request, as a cable does, and wait until the server has noticed."""
    request.scope["cut"]()
    while (await request.receive())["type"] != "http.disconnect":
        pass


# ----------------------------------------------------------------------------------------------- the server
def application(file: str, misbehave: float, seed: int, rate_per_s: float) -> Starlette:
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    table = Table(file)
    luck = random.Random(seed)
    bucket = Bucket(rate_per_s, time.monotonic())

    async def take(request: Request) -> Response:
        endpoint = request.url.path
        table.count(endpoint, "requests")
        if wait_s := bucket.wait_s(time.monotonic()):
            table.count(endpoint, "rejected")
            return JSONResponse({"error": "too many requests"}, 429, {"Retry-After": str(wait_s)})
        draw = luck.random()
        if draw < misbehave / 2:
            table.count(endpoint, "failed")
            return JSONResponse({"error": "the shop stumbled"}, 500)
        try:
            reply = table.take(endpoint, request.headers.get("idempotency-key"), await request.body())
        except RefusedError as refused:
            table.count(endpoint, "refused")
            return JSONResponse({"error": str(refused)}, refused.status)
        if draw < misbehave:
            table.count(endpoint, "lost")
            await hang_up(request)
        return JSONResponse(reply)

    async def prices(request: Request) -> Response:
        return JSONResponse(table.prices())

    async def orders(request: Request) -> Response:
        return JSONResponse({"count": table.totals("orders")["rows"]})

    async def stock(request: Request) -> Response:
        return JSONResponse(table.stock(request.path_params["sku"]))

    async def stats(request: Request) -> Response:
        return JSONResponse(table.stats())

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "open"})

    return Starlette(
        routes=[
            *(Route(endpoint, take, methods=["POST", "PUT"]) for endpoint in ENDPOINTS),
            Route("/prices", prices),
            Route("/orders/count", orders),
            Route("/stock/{sku}", stock),
            Route("/stats", stats),
            Route("/health", health),
        ]
    )


def serve(chosen: Namespace) -> None:
    """Open the shop on a loopback port (0: a free one), print its URL, and serve until a signal comes."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Cuttable(H11Protocol):
        """One connection, which tells the application how to cut it."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            served = self.app

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await served({**scope, "cut": transport.abort}, receive, send)

            self.app = app

    app = application(chosen.db, chosen.misbehave, chosen.seed, chosen.rate)
    listener = socket.create_server(("127.0.0.1", chosen.port))
    config = uvicorn.Config(
        app, http=Cuttable, ws="none", lifespan="off", log_level="warning", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)

    def follow_stdin() -> None:
        while os.read(0, 4096):
            pass
        server.should_exit = True

    if chosen.until_stdin_ends:
        Thread(target=follow_stdin, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def main() -> int:
    parser = ArgumentParser(prog="python -m handlers.demo.shop", description="A shop that misbehaves on purpose.")
    parser.add_argument("--port", type=int, default=8300, help="0: a free one (default: %(default)s)")
    parser.add_argument("--db", default=":memory:", metavar="FILE", help="its SQLite file (default: memory)")
    parser.add_argument("--misbehave", type=float, default=MISBEHAVE, metavar="SHARE", help="0 to 1 (%(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the bad luck (%(default)s)")
    parser.add_argument("--rate", type=float, default=RATE_PER_S, help="requests a second, 0: any (%(default)s)")
    parser.add_argument("--until-stdin-ends", action="store_true", help="close when the process that began it ends")
    try:
        serve(parser.parse_args())
    except ModuleNotFoundError as error:
        sys.stderr.write(f"the demo shop needs {error.name}: pip install 'onward[dev]'\n")
        return 2
    except (OSError, OverflowError, sqlite3.Error) as error:
        sys.stderr.write(f"the demo shop cannot open: {error}\n")
        return 2
    return 0


# -------------------------------------------------------------------------------------- a shop of one's own
class Shop:
    """A shop in a process of its own: `with Shop("shop.db") as shop: ... shop.url ... shop.stats()`.

    It ends with the process that started it, even by kill -9: it reads a pipe that only that process holds.
    """

    def __init__(
        self,
        db: str | os.PathLike[str] = ":memory:",
        *,
        port: int = 0,
        misbehave: float = MISBEHAVE,
        seed: int = SEED,
        rate_per_s: float = RATE_PER_S,
    ) -> None:
        options = {
            "--port": port,
            "--db": os.fspath(db),
            "--misbehave": misbehave,
            "--seed": seed,
            "--rate": rate_per_s,
        }
        self._options = [str(part) for option in options.items() for part in option]
        self.url = ""
        self.pid = 0

    def start(self) -> Self:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, open as long as the shop
        # -P: this file's folder is not put on the path, where `feed` or `client` could hide a module of that name
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, *self._options, "--until-stdin-ends"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is for the job; the shop closes when the job is gone
        )
        self.pid = self._process.pid
        watchdog = Timer(START_TIMEOUT_S, self._process.kill)
        watchdog.start()
        try:
            assert self._process.stdout is not None
            self.url = self._process.stdout.readline().decode().strip()
            if self.url:
                self.get("/health")
        except BaseException:
            self.stop()
            raise
        finally:
            watchdog.cancel()
        if not self.url:
            self.stop()
            raise RuntimeError(self._last_words or "the demo shop did not open in time")
        return self

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._errors.seek(0)
        self._last_words = self._errors.read().decode(errors="replace").strip()
        self._errors.close()

    __enter__ = start

    def __exit__(self, *failure: object) -> None:
        self.stop()

    @property
    def open(self) -> bool:
        return self._process.poll() is None

    def get(self, path: str) -> Any:
        """What the shop tells at `/stats`, `/prices`, `/orders/count`, `/stock/SKU` or `/health`."""
        connection = HTTPConnection(self.url.removeprefix("http://"), timeout=START_TIMEOUT_S)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def stats(self) -> dict[str, Any]:
        told: dict[str, Any] = self.get("/stats")
        return told


_own: Shop | None = None
_starting = Lock()


def own_shop(file: str) -> Shop:
    """The shop of this process, on that file: started at the first call (and again should it have ended)."""
    global _own
    with _starting:
        if _own is None or not _own.open:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            _own = Shop(file).start()
        return _own


if __name__ == "__main__":
    raise SystemExit(main())
