"""The programs a cluster is made of, built from pinned Go modules into a cache.

``hack/tools/NAME/go.mod`` names the programs in its ``tool`` lines; they land in
``$XDG_CACHE_HOME/llmops/tools/NAME-HASH/``, HASH being that of go.mod, go.sum and of what of the programs is ours, so
that a changed pin is a new folder and an unchanged one is never built again.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from hack.cluster.progress import step
from hack.locked import locked

MODULES = Path(__file__).parent.parent / "tools"
NODE_PACKAGES = {
    "runc": "runc",
    "conntrack": "conntrack",
    "nft": "nftables",
    "ip": "iproute2",
    "openssl": "openssl",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}


def cache() -> Path:
    """Where everything that can be made again is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmops"


def program(tool_set: str, name: str) -> Path:
    """The path of one program; built first when it is not there.

    Raises:
        RuntimeError: Go is missing or the build failed; the message holds what it said.
    """
    return built(tool_set) / name


def built(tool_set: str, modules: Path = MODULES) -> Path:
    """The folder that holds every program of a tool set, built when needed; safe to call from several processes."""
    module = modules / tool_set
    folder = cache() / "tools" / f"{tool_set}-{pins(module)}"
    if (folder / ".complete").exists():
        return folder
    with locked(folder.parent / f".{tool_set}.lock", waiting_for=f"another build of {tool_set} to end"):
        if not (folder / ".complete").exists():
            _build(module, folder)
    return folder


def build_all() -> None:
    """Build every tool set that is not there, one after the other: each build uses every core by itself."""
    for module in sorted(MODULES.glob("*/go.mod")):
        built(module.parent.name)


def pins(module: Path) -> str:
    """A hash of everything that a tool set is pinned to."""
    files = [module / "go.mod", module / "go.sum", *sorted(module.glob("*.go"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def _build(module: Path, folder: Path) -> None:
    """Build beside the folder and rename: a killed build leaves nothing that looks finished."""
    if shutil.which("go") is None:
        raise RuntimeError(f"{module.name} has to be built, and Go is not on PATH (https://go.dev/dl, 1.26 or newer)")
    description = json.loads(_go(module, "mod", "edit", "-json"))
    packages = [tool["Path"] for tool in description["Tool"]]
    flags = f"-s -w -X k8s.io/component-base/version.gitVersion={_version(description, packages[0])}"
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch,
        step(f"building {module.name} from source, once ({len(packages)} programs)"),
    ):
        fresh = Path(scratch) / folder.name
        fresh.mkdir()
        _go(module, "build", "-trimpath", "-ldflags", flags, "-o", f"{fresh}/", *packages)
        (fresh / ".complete").touch()
        shutil.rmtree(folder, ignore_errors=True)  # what a build by older code left half done
        fresh.rename(folder)


def _version(description: dict[str, list[dict[str, str]]], package: str) -> str:
    """The pinned version of the module that a package belongs to."""
    owners = [pin for pin in (description.get("Require") or []) if f"{package}/".startswith(f"{pin['Path']}/")]
    nearest = max(owners, key=lambda pin: len(pin["Path"]), default={"Version": "v0.0.0"})
    return nearest["Version"]


def module_source(pin: str, digest: str) -> Path:
    """The files of a Go module, `path@version`, that are read and not built.

    Raises:
        RuntimeError: It cannot be had, or is not what it was when `digest` was noted.
    """
    done = subprocess.run(["go", "mod", "download", "-json", pin], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout or "{}")
    if "Error" in found or not found:
        raise RuntimeError(f"{pin}: {found.get('Error') or done.stderr.strip()[-2000:]}")
    if found["Sum"] != digest:
        raise RuntimeError(f"{pin} has the digest {found['Sum']} and not {digest}")
    return Path(found["Dir"])


def _go(module: Path, *arguments: str) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
    done = subprocess.run(["go", *arguments], cwd=module, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"go {' '.join(arguments[:2])} in {module}:\n{done.stderr.strip()[-4000:]}")
    return done.stdout


def install_packages(needed: dict[str, str]) -> None:
    """Install the Debian packages whose programs are missing.

    Args:
        needed: Program (or absolute path) to the package that brings it.

    Raises:
        RuntimeError: They are missing and there is no apt-get, or it failed.
    """
    missing = sorted({package for path, package in needed.items() if shutil.which(path) is None})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise RuntimeError(f"not on this machine, and there is no apt-get to install it: {', '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    commands = (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing],
    )
    with step(f"installing Debian packages: {' '.join(missing)}"):
        for command in commands:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}:\n{(done.stdout + done.stderr)[-2000:]}")


def unpacked(package: str) -> Path:
    """A Debian package's files in the cache: for a program that is wanted without the service it would start.

    Raises:
        RuntimeError: apt-get has no such package, or there is no apt-get.
    """
    folder = cache() / "tools" / f"debian-{package}"
    if (folder / ".complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with step(f"unpacking the Debian package {package}"):
        commands = (["apt-get", "update", "-q"], ["apt-get", "download", "-q", package])
        for command in commands:
            try:
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            except FileNotFoundError as problem:
                raise RuntimeError(f"{package} comes from Debian, and there is no apt-get here") from problem
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)}:\n{(done.stdout + done.stderr)[-2000:]}")
        for archive in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", str(archive), str(folder)], check=True)
            archive.unlink()
    (folder / ".complete").touch()
    return folder
