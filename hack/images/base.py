"""The base images, made from Debian packages where no image registry is reached.

`BASE` stands in for python:3.12-slim: the same folders and commands that the Dockerfiles rely on. `BUILDER` adds what a
build stage needs (pip through venv, a C compiler) and never ends up in an image that runs; `COMPILER` adds Python's
headers, for the one image that compiles Python.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from hack.images.places import IMAGES

SUITE = "bookworm"
PACKAGES = ("python3.11", "ca-certificates", "libnuma1", "netbase", "tzdata")
BUILDER_PACKAGES = ("python3.11-venv", "gcc", "libc6-dev", "binutils")
COMPILER_PACKAGES = ("python3.11-dev",)
CLEANING = r"""
ln -sf python3.11 {tree}/usr/bin/python3
ln -sf python3.11 {tree}/usr/bin/python
rm -rf {tree}/var/cache/apt/* {tree}/var/lib/apt/lists/* {tree}/var/log/* {tree}/usr/share/locale {tree}/debootstrap
rm -rf {tree}/usr/share/doc/* {tree}/usr/share/man/* {tree}/usr/share/info {tree}/dev/* {tree}/proc/*
mkdir -p {tree}/usr/share/man/man1
"""
RECIPE = hashlib.sha256(repr((SUITE, PACKAGES, BUILDER_PACKAGES, CLEANING)).encode()).hexdigest()[:12]
BASE = f"localhost/llmops-base:{RECIPE}"
BUILDER = f"localhost/llmops-builder:{RECIPE}"
COMPILER = f"localhost/llmops-compiler:{RECIPE}"


def ensure(build: list[str]) -> None:
    """Make the base images unless buildah has them; `build` is the beginning of a `buildah build` command."""
    if not _exists(BASE):
        _import(_root_file_system())
    for tag, below, packages in ((BUILDER, BASE, BUILDER_PACKAGES), (COMPILER, BUILDER, COMPILER_PACKAGES)):
        if not _exists(tag):
            install = f"apt-get update -q && apt-get install -yq --no-install-recommends {' '.join(packages)}"
            subprocess.run(
                [*build, "--tag", tag, "--file", "-"], input=f"FROM {below}\nRUN {install}\n", text=True, check=True
            )


def _exists(reference: str) -> bool:
    return (
        subprocess.run(
            ["buildah", "inspect", "--type", "image", reference], check=False, capture_output=True
        ).returncode
        == 0
    )


def _root_file_system() -> Path:
    """An archive of a small Debian with Python, kept in the cache."""
    archive = IMAGES / f"base-{RECIPE}.rootfs.tar"
    if archive.exists():
        return archive
    if shutil.which("debootstrap") is None:
        raise SystemExit("debootstrap is not installed: apt-get install debootstrap")
    tree = IMAGES / f"base-{RECIPE}.tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    bootstrap = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(tree)]
    subprocess.run(bootstrap, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["sh", "-ec", CLEANING.format(tree=tree)], check=True)
    partial = archive.with_suffix(".partial")
    subprocess.run(["tar", "--numeric-owner", "--xattrs", "-C", tree, "-cf", partial, "."], check=True)
    partial.rename(archive)
    shutil.rmtree(tree)
    return archive


def _import(archive: Path) -> None:
    def buildah(*command: str | Path) -> str:
        return subprocess.run(["buildah", *command], check=True, capture_output=True, text=True).stdout.strip()

    container = buildah("from", "scratch")
    try:
        buildah("add", "--quiet", container, archive, "/")
        buildah("config", "--env", "LANG=C.UTF-8", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container)
        buildah("commit", "--quiet", "--format", "docker", container, BASE)
    finally:
        buildah("rm", container)
