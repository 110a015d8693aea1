"""What Lambda is handed for one HTTP request by each of the things that may stand in front of the door. Shapes of the
AWS documentation: function URLs and HTTP APIs (payload 2.0), REST APIs (payload 1.0), load balancers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote

ARN = "arn:aws:iam::111122223333:user/ann"
Front = Callable[..., dict[str, Any]]


def _body(body: bytes, encoded: bool) -> dict[str, Any]:
    if encoded:
        return {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}
    return {"body": body.decode() if body else None, "isBase64Encoded": False}


def function_url(
    method: str, path: str, query: str = "", headers: Mapping[str, str] = {}, body: bytes = b"", iam: bool = False,
    encoded: bool = False, stage: str = "$default",
) -> dict[str, Any]:  # fmt: skip
    context: dict[str, Any] = {
        "accountId": "123456789012" if iam else "anonymous",
        "apiId": "abc",
        "domainName": "abc.lambda-url.eu-central-1.on.aws",
        "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "agent"},
        "requestId": "id",
        "routeKey": "$default",
        "stage": stage,
        "timeEpoch": 1_790_000_000_000,
    }
    if iam:
        context["authorizer"] = {
            "iam": {"accessKey": "AKIA", "accountId": "111122223333", "userArn": ARN, "userId": "U"}
        }
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": "abc.lambda-url.eu-central-1.on.aws", **headers},
        "requestContext": context,
        **_body(body, encoded),
    }


def http_api(*args: Any, **options: Any) -> dict[str, Any]:
    """With a stage of its own, which stands in the path."""
    method, path, *rest = args
    return function_url(method, f"/live{path}", *rest, stage="live", **options)


def rest_api(
    method: str, path: str, query: str = "", headers: Mapping[str, str] = {}, body: bytes = b"", iam: bool = False,
    encoded: bool = False,
) -> dict[str, Any]:  # fmt: skip
    pairs = parse_qsl(query, keep_blank_values=True)
    several: dict[str, list[str]] = {}
    for name, value in pairs:
        several.setdefault(name, []).append(value)
    nobody = dict.fromkeys(("accessKey", "accountId", "caller", "user", "userArn"))
    somebody = {"accessKey": "AKIA", "accountId": "111122223333", "caller": "AIDA", "user": "AIDA", "userArn": ARN}
    host = {"Host": "abc.execute-api.eu-central-1.amazonaws.com", **headers}
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": host,
        "multiValueHeaders": {name: [value] for name, value in host.items()},
        "queryStringParameters": dict(pairs) or None,
        "multiValueQueryStringParameters": several or None,
        "pathParameters": {"proxy": path.lstrip("/")},
        "stageVariables": None,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abc",
            "httpMethod": method,
            "identity": {"sourceIp": "192.0.2.1", "userAgent": "agent", **(somebody if iam else nobody)},
            "path": f"/prod{path}",
            "protocol": "HTTP/1.1",
            "requestId": "id",
            "resourcePath": "/{proxy+}",
            "stage": "prod",
        },
        **_body(body, encoded),
    }


def load_balancer(
    method: str, path: str, query: str = "", headers: Mapping[str, str] = {}, body: bytes = b"", iam: bool = False,
    encoded: bool = False,
) -> dict[str, Any]:  # fmt: skip
    assert not iam, "a load balancer authorizes nobody by IAM"
    pairs = [(quote(name), quote(value)) for name, value in parse_qsl(query, keep_blank_values=True)]
    group = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/onward/49e9d65c45c6791a"
    return {
        "requestContext": {"elb": {"targetGroupArn": group}},
        "httpMethod": method,
        "path": path,
        "queryStringParameters": dict(pairs),
        "headers": {"host": "onward-1.eu-central-1.elb.amazonaws.com", **headers},
        **_body(body, encoded),
    }


FRONTS: dict[str, Front] = {
    "function URL": function_url,
    "HTTP API": http_api,
    "REST API": rest_api,
    "load balancer": load_balancer,
}
WRITTEN_BY_CLIENT = {"HTTP API": "/live", "REST API": "/prod"}
"""What stands before the path in the client's own request."""


def answer_of(reply: Mapping[str, Any]) -> tuple[int, Any]:
    """Status and content of what the handler returned."""
    text = reply.get("body") or ""
    if reply.get("isBase64Encoded"):
        text = base64.b64decode(text).decode()
    return reply["statusCode"], json.loads(text) if text else None
