"""Where a service of AWS is reached: from the environment if it says so, else from the region.

    AWS_ENDPOINT_URL_<SERVICE>            wins
    AWS_ENDPOINT_URL                      then this
    AWS_IGNORE_CONFIGURED_ENDPOINT_URLS   when "true", neither counts
    <service>.<region>.<suffix>           otherwise; the suffix depends on the partition that the region is in

An address that is handed to `Wire` itself stands above all of them.
"""

from __future__ import annotations

import os

from onward.aws.connection import Address
from onward.core.errors import Misconfigured, NoRegion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# The name of each service in its host, in its signature and in its variable, AWS_ENDPOINT_URL_<name>.
VARIABLES = {"dynamodb": "DYNAMODB", "lambda": "LAMBDA", "sqs": "SQS", "s3": "S3", "events": "EVENTBRIDGE"}

# Region prefix to DNS suffix, from the partitions that botocore knows; the first that fits counts.
SUFFIXES = (
    ("cn-", "amazonaws.com.cn"),
    ("eusc-", "amazonaws.eu"),
    ("us-iso-", "c2s.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
    ("us-isof-", "csp.hci.ic.gov"),
    ("", "amazonaws.com"),
)


def find_region(environ: Mapping[str, str] = os.environ) -> str:
    """AWS_REGION, else AWS_DEFAULT_REGION. Raises `NoRegion`."""
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    if not region:
        raise NoRegion("No AWS region is set. Set AWS_REGION (for example eu-central-1).")
    if not region.isascii() or not region.replace("-", "").isalnum():
        raise NoRegion(f"{region!r} is no AWS region. Set AWS_REGION (for example eu-central-1).")
    return region


def configured_url(service: str, environ: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """The URL that the environment gives for `service`, with the name of its variable."""
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    for variable in (f"AWS_ENDPOINT_URL_{VARIABLES[service]}", "AWS_ENDPOINT_URL"):
        url = environ.get(variable)
        if url:
            return url, variable
    return None


def regional_host(service: str, region: str) -> str:
    suffix = next(suffix for prefix, suffix in SUFFIXES if region.startswith(prefix))
    return f"{service}.{region}.{suffix}"


def parse_url(url: str, variable: str) -> tuple[Address, str]:
    """Address and path (without a slash at its end) of an http or https URL. `variable`: who gave it."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    host, port = authority, ""
    if authority.startswith("["):
        host, _, after = authority[1:].partition("]")
        port = after.removeprefix(":")
    elif ":" in authority:
        host, _, port = authority.partition(":")
    fits = (
        separator
        and scheme.lower() in ("http", "https")
        and host
        and not any(mark in url for mark in "@?# ")
        and url.isprintable()
        and path.isascii()
        and (not port or (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 65_536))
    )
    if not fits:
        raise Misconfigured(f"{variable} is {url!r}: that is no URL. Write it like http://localhost:8000.")
    secure = scheme.lower() == "https"
    return Address(secure, host.lower(), int(port) if port else (443 if secure else 80)), (slash + path).rstrip("/")
