"""The command ``python3 -m hack.cluster``."""

import argparse
import sys
from pathlib import Path

from hack.cluster import tools
from hack.cluster.provider import VARIABLE, Provider, choose, providers


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status (1, with one line that says why, when it could not be done)."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "tools":
            tools.build_all()
            return 0
        return _run(options, choose(options.provider, providers(assume_yes=options.yes)))
    except (RuntimeError, TimeoutError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace, provider: Provider) -> int:
    match options.command:
        case "up":
            provider.up()
        case "down":
            provider.down(purge=options.purge)
        case "load":
            provider.load_images(options.archives)
        case "kubeconfig":
            print(provider.kubeconfig)
        case "status":
            running = provider.running()
            print(f"{provider.name}: {'up' if running else 'down'}")
            if running:
                print(f"export KUBECONFIG={provider.kubeconfig}")
            return 0 if running else 3
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m hack.cluster", description="A Kubernetes cluster to develop on.")
    parser.add_argument(
        "--provider",
        choices=["auto", "kind", "from-source", "existing"],
        help=f"where the cluster comes from (default: ${VARIABLE}, else the first that fits)",
    )
    parser.add_argument("--yes", action="store_true", help="use an existing cluster without asking")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="bring it up, or find it up")
    down = commands.add_parser("down", help="take it down; harmless when it is")
    down.add_argument("--purge", action="store_true", help="remove the loaded images as well")
    commands.add_parser("tools", help="build every program that a cluster and the tests need")
    commands.add_parser("status", help="whether it is up (exit status 3 when not)")
    commands.add_parser("kubeconfig", help="print the path of its kubeconfig")
    load = commands.add_parser("load", help="make images known to its nodes")
    load.add_argument("archives", nargs="+", type=Path, metavar="IMAGE_TAR", help="a docker or OCI archive")
    return parser


if __name__ == "__main__":
    sys.exit(main())
