"""The cluster as the person at the keyboard may see it: a kubeconfig, a few calls, errors that end in exit codes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmops.shell.resources import POD, Resource

if TYPE_CHECKING:
    import httpx

Json = dict[str, Any]

NO, NOT_FOUND, NOT_PERMITTED, UNREACHABLE = 1, 3, 4, 5

Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Default: the context's namespace.")]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig. Default: the current one.")]


class CliError(typer.Exit):
    """The end of a command, with a sentence for the reader on stderr."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(code)
        self.message = message
        typer.echo(f"llmops: {message}", err=True)


class Refused(Exception):
    """The API server's answer was not the one asked for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message

    def exit(self) -> CliError:
        """The refusal as the end of the command."""
        codes = {401: NOT_PERMITTED, 403: NOT_PERMITTED, 404: NOT_FOUND}
        return CliError(self.message, codes.get(self.status, NO))


@dataclass
class Cluster:
    """One API server, as one user, by one context of the kubeconfig."""

    context: str | None = None
    wish: str | None = None  # the namespace asked for

    @property
    def namespace(self) -> str:
        """Where names without a namespace live."""
        return self.wish or self._reached[1]

    @cached_property
    def _reached(self) -> tuple[httpx.Client, str]:
        import httpx  # noqa: PLC0415 - slow to import, and `--help` needs none of it

        url, tls, headers, namespace = _credentials(self.context)
        verify = True if tls is None else tls
        return httpx.Client(base_url=url, verify=verify, headers=headers, timeout=30, trust_env=False), namespace

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Json:
        """One object. Raises Refused."""
        found: Json = self._call("GET", resource.path(namespace or self.namespace, name)).json()
        return found

    def list(self, resource: Resource, namespace: str | None, **query: str) -> list[Json]:
        """Objects of a namespace, or with None of all. Raises Refused."""
        items: list[Json] = self._call("GET", resource.path(namespace), params=query).json()["items"]
        return [{"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in items]

    def create(self, resource: Resource, manifest: Json) -> Json:
        """A new object. Raises Refused."""
        path = resource.path(manifest["metadata"]["namespace"])
        made: Json = self._call("POST", path, json=manifest, params={"fieldValidation": "Strict"}).json()
        return made

    def annotate(self, resource: Resource, name: str, annotations: dict[str, str]) -> None:
        """Set annotations of an object and touch nothing else of it. Raises Refused."""
        self.patch(resource, name, {"metadata": {"annotations": annotations}})

    def patch(self, resource: Resource, name: str, change: Json) -> Json:
        """The object with a JSON merge patch applied. Raises Refused."""
        made: Json = self._call(
            "PATCH",
            resource.path(self.namespace, name),
            json=change,
            params={"fieldManager": "llmops-cli", "fieldValidation": "Strict"},
            headers={"Content-Type": "application/merge-patch+json"},
        ).json()
        return made

    def delete(self, resource: Resource, name: str, namespace: str, uid: str) -> None:
        """Delete this very object, not one that has taken its name since. Raises Refused."""
        self._call("DELETE", resource.path(namespace, name), json={"preconditions": {"uid": uid}})

    def page(self, path: str) -> Any:
        """Any JSON page of the API server. Raises Refused."""
        return self._call("GET", path).json()

    def logs(self, namespace: str, pod: str, *, container: str, tail: int, follow: bool = False) -> Iterator[str]:
        """Lines of a container. Raises Refused."""
        import httpx  # noqa: PLC0415

        query = {"container": container, "tailLines": str(tail), "follow": str(follow).lower()}
        timeout = httpx.Timeout(30, read=None if follow else 30)
        try:
            path = POD.path(namespace, pod, "log")
            with self._reached[0].stream("GET", path, params=query, timeout=timeout) as response:
                if response.is_error:
                    response.read()
                    raise _refusal(response)
                yield from response.iter_lines()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _call(self, method: str, path: str, **how: Any) -> httpx.Response:
        import httpx  # noqa: PLC0415

        try:
            response = self._reached[0].request(method, path, **how)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise _refusal(response)
        return response

    def _unreachable(self, error: Exception) -> CliError:
        return CliError(f"cannot reach the cluster at {self._reached[0].base_url}: {error}", UNREACHABLE)


def _refusal(response: httpx.Response) -> Refused:
    try:
        message = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {response.status_code} for {response.request.url.path}"
    return Refused(response.status_code, message)


def _credentials(context: str | None) -> tuple[str, Any, dict[str, str], str]:
    """URL, TLS, headers and namespace. A plain kubeconfig is read here; a harder one is left to the official client.

    Harder means several files to merge, or credentials that another program makes (exec plug-ins, OIDC): the official
    client does all of it, and takes a second to import.
    """
    from llmops.shell.connection import from_kubeconfig  # noqa: PLC0415

    paths = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    if os.pathsep not in paths:
        if not Path(paths).is_file():
            raise CliError(f"no kubeconfig at {paths}: set KUBECONFIG or make one", UNREACHABLE)
        try:
            plain = from_kubeconfig(Path(paths), context=context)
        except (ValueError, KeyError):
            pass  # perhaps only too hard for us
        else:
            return plain.url, plain.tls, plain.authorization(), plain.namespace
    return _official(context)


def _official(context: str | None) -> tuple[str, Any, dict[str, str], str]:
    import ssl  # noqa: PLC0415

    try:
        from kubernetes import client, config  # noqa: PLC0415
    except ImportError as error:
        raise CliError(
            "this kubeconfig needs the `cli` extra: pip install 'llmops-operator[cli]'", UNREACHABLE
        ) from error
    settings = client.Configuration()
    try:
        config.load_kube_config(  # type: ignore[no-untyped-call]
            context=context, client_configuration=settings
        )
        contexts, current = config.list_kube_config_contexts()  # type: ignore[no-untyped-call]
    except (config.ConfigException, KeyError, TypeError) as error:
        raise CliError(f"the kubeconfig cannot be used: {error}", UNREACHABLE) from error
    chosen = next((each for each in contexts if each["name"] == context), current)
    tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    if not settings.verify_ssl:
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    if settings.cert_file:
        tls.load_cert_chain(settings.cert_file, settings.key_file)
    token = settings.get_api_key_with_prefix("authorization")
    headers = {"Authorization": token} if token else {}
    return settings.host, tls, headers, chosen["context"].get("namespace", "default")
