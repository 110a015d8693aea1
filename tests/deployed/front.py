"""A function URL: an HTTP server that hands requests to a function as Lambda does, and its answers back."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from onward.local.lambda_service import LocalLambda

ARN = "arn:aws:iam::123456789012:user/ann"


@contextlib.contextmanager
def function_url(service: LocalLambda, auth: str) -> Iterator[str]:
    """The URL. `auth`: AWS_IAM, where a request that has a signature of AWS's form passes for a caller who was
    authorized (nobody checks signatures here) and any other is refused; or NONE."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._pass_on()

        def do_POST(self) -> None:
            self._pass_on()

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            signed = self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 ")
            if auth == "AWS_IAM" and not signed:
                self._answer(403, {"content-type": "application/json"}, b'{"Message":"Forbidden"}')
                return
            path, _, query = self.path.partition("?")
            http = {"method": self.command, "path": path, "sourceIp": "192.0.2.1", "protocol": "HTTP/1.1"}
            context: dict[str, Any] = {"http": http, "stage": "$default"}
            if auth == "AWS_IAM":
                context["authorizer"] = {"iam": {"userArn": ARN}}
            payload = {
                "version": "2.0",
                "rawPath": path,
                "rawQueryString": query,
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "requestContext": context,
                "body": base64.b64encode(body).decode(),
                "isBase64Encoded": True,
            }
            answer, error = service.invoke(payload)
            if error is not None:
                self._answer(502, {}, b"Internal Server Error")
                return
            content = answer.get("body", "").encode()
            if answer.get("isBase64Encoded"):
                content = base64.b64decode(content)
            self._answer(answer["statusCode"], answer.get("headers", {}), content)

        def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() != "content-length":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
