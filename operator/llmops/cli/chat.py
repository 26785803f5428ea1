"""`llmops chat`: talk to a model through the gateway, as an application would."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops.cli import gateway
from llmops.cli.cluster import NO, NOT_FOUND, NOT_PERMITTED, UNREACHABLE, CliError, Cluster, Context, Namespace, Refused

if TYPE_CHECKING:
    import httpx

Name = Annotated[str, typer.Argument(help="An LLMDeployment or one of its adapters.")]
Prompt = Annotated[str | None, typer.Argument(help="One question; without it, a conversation (or standard input).")]
Url = Annotated[str | None, typer.Option(help="Base URL of the gateway. Default: a port forwarded by kubectl.")]
Key = Annotated[str | None, typer.Option(envvar="LLMOPS_API_KEY", help="API key, where the gateway asks for one.")]
System = Annotated[str | None, typer.Option(help="System prompt.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Longest answer.")]
Temperature = Annotated[float | None, typer.Option(min=0, max=2)]
GatewayNamespace = Annotated[str | None, typer.Option(envvar="LLMOPS_GATEWAY_NAMESPACE", help="Default: found.")]

Message = dict[str, str]


def chat(
    name: Name,
    prompt: Prompt = None,
    *,
    url: Url = None,
    key: Key = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    gateway_namespace: GatewayNamespace = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Ask a model; the answer is printed as it comes. A sleeping model is woken and waited for."""
    import httpx  # noqa: PLC0415 - slow to import

    cluster = Cluster(context, namespace)
    model = name if url and not namespace else f"{cluster.namespace}/{name}"
    options = {"max_tokens": max_tokens, "temperature": temperature}
    body = {"model": model, "stream": True} | {field: value for field, value in options.items() if value is not None}
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with _reach(cluster, url, gateway_namespace) as base:
        timeout = httpx.Timeout(30, read=None)  # a model may have to be started first
        with httpx.Client(base_url=base, headers=headers, timeout=timeout, trust_env=False) as client:
            for question in _questions(prompt):
                messages.append({"role": "user", "content": question})
                messages.append({"role": "assistant", "content": _answer(client, {**body, "messages": messages})})


def _reach(cluster: Cluster, url: str | None, namespace: str | None) -> AbstractContextManager[str]:
    if url:
        return nullcontext(url.rstrip("/").removesuffix("/v1"))
    try:
        return gateway.forwarded(gateway.service(cluster, namespace), cluster.context)
    except Refused as refusal:
        raise refusal.exit() from refusal


def _questions(prompt: str | None) -> Iterator[str]:
    if prompt is not None:
        yield prompt
    elif not sys.stdin.isatty():
        yield sys.stdin.read()
    else:
        while True:
            try:
                yield input("> ")
            except EOFError:
                return


def _answer(client: httpx.Client, body: dict[str, Any]) -> str:
    import httpx  # noqa: PLC0415

    parts = []
    try:
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                response.read()
                raise _problem(response)
            ended = False
            for event in _events(response):
                ended = ended or event == "[DONE]"
                if event != "[DONE]":
                    parts.append(_text(event))
                    typer.echo(parts[-1], nl=False)
    except httpx.TransportError as error:
        typer.echo()
        raise CliError(
            f"the gateway at {client.base_url} cannot be reached or went away: {error}", UNREACHABLE
        ) from error
    typer.echo()
    if not ended:
        raise CliError("the answer was cut off: the stream ended without [DONE]", NO)
    return "".join(parts)


def _events(response: httpx.Response) -> Iterator[str]:
    """Data of server-sent events; the first comment, the gateway's sign of life while it holds a request, is told."""
    waited = False
    for line in response.iter_lines():
        if line.startswith("data:"):
            yield line.removeprefix("data:").strip()
        elif line.startswith(":") and not waited:
            waited = True
            typer.echo("(no replica is ready yet; the question is held until one is)", err=True)


def _text(event: str) -> str:
    chunk = json.loads(event)
    if error := chunk.get("error"):
        typer.echo()
        raise CliError(str(error.get("message", error)), NO)
    choices = chunk.get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""


def _problem(response: httpx.Response) -> CliError:
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {response.status_code}"
    if wait := response.headers.get("retry-after"):
        message += f" (try again in {wait} s)"
    code = {401: NOT_PERMITTED, 403: NOT_PERMITTED, 404: NOT_FOUND}.get(response.status_code, NO)
    return CliError(message, code)
