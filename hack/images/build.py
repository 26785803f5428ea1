"""Build images and write each as an archive that containerd, kind and Docker load. What is there is not built again."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hack.cluster import tools
from hack.images import base
from hack.images.catalog import PREFIX, REPOSITORY, Target, in_order, target
from hack.images.places import IMAGES, ROOT, UV_CACHE
from hack.locked import locked

PACKAGES = {"buildah": "buildah", "debootstrap": "debootstrap", "runc": "runc"}
# crun refuses the hybrid cgroups of some build machines; nothing here needs more isolation than a chroot.
BUILDAH = ["buildah", "build", "--quiet", "--isolation", "chroot", "--network", "host", "--pull-never"]
CERTIFICATES = Path("/etc/ssl/certs")


def ensure(names: list[str], *, model: Path) -> list[Target]:
    """Build and archive what is missing of the images called `names` (all when empty); return all of them.

    Raises:
        SystemExit: neither Docker nor buildah can be used here.
        subprocess.CalledProcessError: a build failed; its output has been printed.
    """
    with locked(IMAGES / "lock"), _copied_sources() as root:
        wanted = [target(name, model=model, root=root) for name in in_order(names)]
        missing = [image for image in wanted if not image.archive.exists()]
        builder = _builder() if missing else []
        for image in missing:
            started = time.monotonic()
            _build(builder, image, root=root, model=model)
            _archive(builder, image)
            _forget_older(builder, image)
            print(f"{image.reference} built in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    return wanted


@contextlib.contextmanager
def _copied_sources() -> Iterator[Path]:
    """A copy of what images are made of: a file saved during a build must not end up under the name of another."""
    with tempfile.TemporaryDirectory(prefix="llmops-images-") as folder:
        for part in ("operator", "serving", "hack"):
            shutil.copytree(ROOT / part, Path(folder) / part, ignore=shutil.ignore_patterns("__pycache__"))
        yield Path(folder)


def _builder() -> list[str]:
    """The beginning of a build command: Docker's where its daemon answers, else buildah's on bases made here."""
    if shutil.which("docker") and subprocess.run(["docker", "info"], check=False, capture_output=True).returncode == 0:
        return ["docker", "buildx", "build", "--quiet", "--load"]
    try:
        tools.install_packages(PACKAGES)
    except RuntimeError as problem:
        raise SystemExit(f"no image builder: start Docker, or install buildah; {problem}") from problem
    UV_CACHE.mkdir(parents=True, exist_ok=True)
    mounts = [
        f"{CERTIFICATES}:{CERTIFICATES}:ro",
        "/etc/resolv.conf:/etc/resolv.conf:ro",
        f"{UV_CACHE}:/root/.cache/uv",
    ]
    buildah = [*BUILDAH, *(part for mount in mounts for part in ("--volume", mount))]
    base.ensure(buildah)
    return [
        *buildah,
        "--format",
        "docker",
        "--build-arg",
        f"BASE={base.BASE}",
        "--build-arg",
        f"BUILDER={base.BUILDER}",
        "--build-arg",
        f"COMPILER={base.COMPILER}",
    ]


def _build(builder: list[str], wanted: Target, *, root: Path, model: Path) -> None:
    image = wanted.image
    command = [*builder, "--file", str(root / image.dockerfile), "--tag", wanted.reference]
    if image.parent:
        parent = target(image.parent, model=model, root=root)
        if not _stored(builder, parent.reference):  # its archive is in the cache, the builder's own store is not
            _build(builder, parent, root=root, model=model)
        command += ["--build-arg", f"{image.parent_argument}={parent.reference}"]
    if image.model:
        command += ["--build-context", f"model={model}"]
    for each in image.tools:
        command += ["--build-context", f"{each}={tools.built(each)}"]
    if builder[0] == "buildah":
        command.append(f"--layers={str(image.keep_layers).lower()}")
    subprocess.run([*command, str(root)], check=True, stdout=subprocess.DEVNULL)


def _archive(builder: list[str], wanted: Target) -> None:
    partial = wanted.archive.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    save = ["docker", "save", "--output", str(partial), wanted.reference]
    push = ["buildah", "push", "--quiet", wanted.reference, f"docker-archive:{partial}:{wanted.reference}"]
    subprocess.run(save if builder[0] == "docker" else push, check=True)
    partial.rename(wanted.archive)


def _stored(builder: list[str], reference: str) -> bool:
    docker = ["docker", "image", "inspect", reference]
    buildah = ["buildah", "inspect", "--type", "image", reference]
    return (
        subprocess.run(docker if builder[0] == "docker" else buildah, check=False, capture_output=True).returncode == 0
    )


def _forget_older(builder: list[str], wanted: Target) -> None:
    """Remove the archives and images that this one replaces; layers it shares with them stay.

    Of an image without layers to start from, the one before stays, too: who goes back to the branch it is of need not
    wait for all of it again.
    """
    name = f"{PREFIX}{wanted.image.name}"
    others = [archive for archive in IMAGES.glob(f"{name}-*.tar") if archive != wanted.archive]
    others.sort(key=lambda archive: archive.stat().st_mtime)
    for archive in others if wanted.image.keep_layers else others[:-1]:
        tag = archive.stem.removeprefix(f"{name}-")
        archive.unlink()
        remove = ["docker", "image", "rm"] if builder[0] == "docker" else ["buildah", "rmi"]
        subprocess.run([*remove, f"{REPOSITORY}{wanted.image.name}:{tag}"], check=False, capture_output=True)
