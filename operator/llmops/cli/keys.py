"""`llmops keys`: API keys of the gateway. A key is shown once; the cluster keeps its hash."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from typing import Annotated

import typer

from llmops import names
from llmops.cli import gateway
from llmops.cli.cluster import NOT_FOUND, CliError, Cluster, Context, Json, Refused
from llmops.cli.output import Form, Output, age, now, print_json, table
from llmops.shell.resources import Resource

SECRET = Resource("v1", "Secret", "secrets")
FIELDS = ("tenant", "models", "requestsPerMinute", "tokensPerMinute", "concurrency", "monthlyTokens")
PREFIX = "llm-"

app = typer.Typer(
    no_args_is_help=True, help="API keys of the gateway. A key is shown once; the cluster keeps its hash."
)
Name = Annotated[str, typer.Argument(help="Name of the key: the Secret's name.")]


def _plain(tenant: str) -> str:
    """A tenant as the gateway takes it: a key with another one would be made and never work."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", tenant) is None:
        raise typer.BadParameter("a tenant is up to 63 letters, digits, dots, dashes and underscores")
    return tenant


Tenant = Annotated[str, typer.Option(callback=_plain, help="Whom usage and budgets are counted for.")]
Models = Annotated[
    list[str],
    typer.Option("--model", help="Model it may use: namespace/name, namespace/* or a name; repeat. Default: all."),
]
Requests = Annotated[int | None, typer.Option("--requests-per-minute", min=1)]
Tokens = Annotated[int | None, typer.Option("--tokens-per-minute", min=1)]
Concurrent = Annotated[int | None, typer.Option("--concurrency", min=1, help="Requests at the same time.")]
Budget = Annotated[int | None, typer.Option("--monthly-tokens", min=1, help="Tokens per calendar month (UTC).")]
Where = Annotated[
    str | None,
    typer.Option("--gateway-namespace", "-n", envvar="LLMOPS_GATEWAY_NAMESPACE", help="Default: found by its Service."),
]


@app.command()
def create(
    name: Name,
    *,
    tenant: Tenant,
    models: Models = [],  # noqa: B006 - typer copies it
    requests_per_minute: Requests = None,
    tokens_per_minute: Tokens = None,
    concurrency: Concurrent = None,
    monthly_tokens: Budget = None,
    namespace: Where = None,
    context: Context = None,
    output: Output = Form.TEXT,
) -> None:
    """Make a key and print it, the only time it is ever seen."""
    cluster = Cluster(context)
    key = PREFIX + secrets.token_urlsafe(32)
    limits = {
        "tenant": tenant,
        "models": ",".join(models) or None,
        "requestsPerMinute": requests_per_minute,
        "tokensPerMinute": tokens_per_minute,
        "concurrency": concurrency,
        "monthlyTokens": monthly_tokens,
    }
    data = {"hash": hashlib.sha256(key.encode()).hexdigest()}
    data |= {field: str(value) for field, value in limits.items() if value is not None}
    try:
        manifest = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": _where(cluster, namespace),
                "labels": {names.LABEL_API_KEY: "true"},
            },
            "stringData": data,
        }
        cluster.create(SECRET, manifest)
    except Refused as refusal:
        raise refusal.exit() from refusal
    if output is Form.JSON:
        print_json({"name": name, "key": key, **{field: value for field, value in data.items() if field != "hash"}})
    else:
        typer.echo(key)
        typer.echo(f"This is the only time that the key of {name} is shown: the cluster keeps its hash.", err=True)


@app.command("list")
def list_keys(*, namespace: Where = None, context: Context = None, output: Output = Form.TEXT) -> None:
    """List keys and their limits; neither keys nor hashes."""
    cluster = Cluster(context)
    try:
        where = _where(cluster, namespace)
        found = cluster.list(SECRET, where, labelSelector=names.LABEL_API_KEY)
    except Refused as refusal:
        raise refusal.exit() from refusal
    keys = [
        {"name": each["metadata"]["name"], **_limits(each), "created": each["metadata"]["creationTimestamp"]}
        for each in found
    ]
    if output is Form.JSON:
        print_json(keys)
        return
    if not keys:
        typer.echo(f"No API key in {where}.")
        return
    at = now()
    rows = [[key["name"], *(key.get(field, "-") for field in FIELDS), age(key["created"], at)] for key in keys]
    table(["name", "tenant", "models", "requests/min", "tokens/min", "concurrency", "tokens/month", "age"], rows)


@app.command()
def revoke(name: Name, *, namespace: Where = None, context: Context = None) -> None:
    """Delete a key: the gateway refuses it within seconds."""
    cluster = Cluster(context)
    try:
        where = _where(cluster, namespace)
        found = cluster.get(SECRET, name, where)
        if names.LABEL_API_KEY not in found["metadata"].get("labels", {}):
            raise CliError(f"Secret {where}/{name} is not an API key (no label {names.LABEL_API_KEY})", NOT_FOUND)
        cluster.delete(SECRET, name, where, found["metadata"]["uid"])
    except Refused as refusal:
        raise refusal.exit() from refusal
    typer.echo(f"{name} revoked")


def _where(cluster: Cluster, namespace: str | None) -> str:
    return namespace or str(gateway.service(cluster, None)["metadata"]["namespace"])


def _limits(secret: Json) -> dict[str, str]:
    data = secret.get("data", {})
    return {field: base64.b64decode(data[field]).decode() for field in FIELDS if field in data}
