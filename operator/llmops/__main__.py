"""`python -m llmops`: the operator. The only place that reads the environment and builds real things."""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import sys
import uuid
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import structlog
import uvloop
import yaml
from pydantic import ValidationError

from llmops import names
from llmops.config import Config
from llmops.judge.redaction import redacted
from llmops.shell import connection
from llmops.shell.leadership import Deposed
from llmops.shell.process import Identity, Process

EXIT_DEPOSED = 3
KEPT_FREE_BYTES = 1024 * 1024
_M_TRIM_THRESHOLD = -1  # in <malloc.h>


def main() -> int:
    """Read the configuration, connect, run until told to stop."""
    try:
        config = load_config(Path(os.environ.get("LLMOPS_CONFIG", "/etc/llmops/config.yaml")))
        link = connect(os.environ)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"llmops: {error}\n")
        return 2
    configure_logs(config.log_level)
    give_back_memory()
    pod = os.environ.get("POD_NAME", "")
    identity = Identity(
        name=f"{pod or socket.gethostname()}_{uuid.uuid4().hex[:8]}",
        pod=pod,
        namespace=os.environ.get("LLMOPS_NAMESPACE", link.namespace),
        version=_version(),
    )
    port = int(os.environ.get("LLMOPS_HEALTH_PORT", str(names.OPERATOR_HEALTH_PORT)))
    try:
        uvloop.run(_run(link, config, identity, port))
    except Deposed as reason:
        structlog.get_logger().error("ending: another process may act now", reason=str(reason))
        return EXIT_DEPOSED
    return 0


async def _run(link: connection.Connection, config: Config, identity: Identity, port: int) -> None:
    process = Process(link, config, identity, health_port=port)
    process.heed_signals()
    await process.run()


def load_config(path: Path) -> Config:
    """The configuration file, checked.

    Raises:
        ValueError: with each wrong key and what it should be.
    """
    try:
        return Config.model_validate(yaml.safe_load(path.read_text()) or {})
    except ValidationError as error:
        problems = [f"  {'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors()]
        raise ValueError(f"{path} is not a valid configuration:\n" + "\n".join(problems)) from error


def connect(environment: os._Environ[str]) -> connection.Connection:
    """The API server of the pod's own cluster, or of $KUBECONFIG outside of one."""
    if "KUBECONFIG" not in environment and "KUBERNETES_SERVICE_HOST" in environment:
        return connection.in_cluster(environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"])
    return connection.from_kubeconfig(Path(environment.get("KUBECONFIG", str(Path.home() / ".kube" / "config"))))


def configure_logs(level: str) -> None:
    """JSON lines on standard output, with everything that looks like a credential masked."""

    def masked(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {key: redacted(value) if isinstance(value, str) else value for key, value in event.items()}

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            masked,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format='{"logger":"%(name)s","event":"%(message)s"}')


def give_back_memory() -> None:
    """Let glibc give freed memory back to the system.

    By itself it keeps the more, up to 64 MB, the larger the blocks were that it has seen: what the lists and answers of
    one busy minute took stayed with the process for good.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # with another libc there is none
        libc.mallopt(_M_TRIM_THRESHOLD, KEPT_FREE_BYTES)


def _version() -> str:
    try:
        return version("llmops-operator")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
