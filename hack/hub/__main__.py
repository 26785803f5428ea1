"""`python -m hack.hub --root DIR`: serve DIR/<org>/<name>/ as model repositories. Standard library only."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from hack.hub.faults import Fault
from hack.hub.server import Hub


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hack.hub", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="directory with <org>/<name>/ model repositories")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (0.0.0.0 in a pod)")
    parser.add_argument("--port", type=int, default=8090, help="port to listen on; 0 takes a free one and prints it")
    parser.add_argument("--token", action="append", default=[], help="a token that may read private and gated models")
    parser.add_argument(
        "--bytes-per-second", type=int, default=0, help="pace of one file's body; 0 is as fast as it goes"
    )
    parser.add_argument("--faults", type=Path, help='JSON list of faults, e.g. [{"match": "resolve", "status": 429}]')
    return parser


def main() -> int:
    options = arguments().parse_args()
    if not options.root.is_dir():
        sys.exit(f"--root {options.root} is not a directory")
    hub = Hub(
        options.root,
        host=options.host,
        port=options.port,
        tokens=tuple(options.token),
        bytes_per_second=options.bytes_per_second,
    )
    if options.faults:
        hub.faults.add(*(Fault(**fault) for fault in json.loads(options.faults.read_text())))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with hub:
        print(f"hub: {hub.url} serves {options.root}", flush=True)
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
