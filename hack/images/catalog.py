"""The images and what each is made of. A reference is a function of that content: equal content, equal name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hack.cluster import tools
from hack.images.base import RECIPE
from hack.images.places import IMAGES, ROOT

PREFIX = "llmops-"
REPOSITORY = f"localhost/{PREFIX}"
BUILDER_LOCK = "hack/locks/builder.txt"
# Our code in pods that serve and train: a change of what only the operator does makes no new image for them.
WORKLOAD = (
    *("operator/llmops/__init__.py", "operator/llmops/names.py", "operator/llmops/api", "operator/llmops/judge"),
    "serving/llmops_serving",
)


@dataclass(frozen=True)
class Image:
    """One image: its Dockerfile, every path the Dockerfile copies, and the image it stands on."""

    name: str
    dockerfile: str
    sources: tuple[str, ...]
    parent: str = ""  # the image given to the Dockerfile as the build argument `parent_argument`
    parent_argument: str = ""
    model: bool = False  # takes the small model as the build context `model`
    tools: tuple[str, ...] = ()  # sets of programs of hack/tools, each given as the build context of its name
    keep_layers: bool = True  # False: a rebuild starts over, and gigabytes are not stored once per build step


CATALOG = {
    image.name: image
    for image in (
        Image("operator", "operator/Dockerfile", (BUILDER_LOCK, "hack/locks/operator.txt", "operator/llmops")),
        Image(
            "serving",
            "serving/serving.Dockerfile",
            (
                *(BUILDER_LOCK, "hack/locks/serving.txt", "hack/locks/compiler.txt"),
                *(*WORKLOAD, "hack/compiled.py", "hack/images/places.py"),
            ),
        ),
        Image(
            "engine-cpu",
            "serving/engine-cpu.Dockerfile",
            (BUILDER_LOCK, "hack/locks/engine.txt", "hack/images/standins.py"),
            keep_layers=False,
        ),
        Image(
            "trainer",
            "serving/trainer.Dockerfile",
            (BUILDER_LOCK, "hack/locks/trainer.txt", *WORKLOAD),
            parent="engine-cpu",
            parent_argument="ENGINE",
        ),
        Image(
            "demo-hub", "hack/hub.Dockerfile", ("hack/hub",), parent="serving", parent_argument="SERVING", model=True
        ),
        Image("demo-s3", "hack/s3.Dockerfile", ("hack/s3",), tools=("versitygw",)),
        Image("demo-monitoring", "hack/monitoring.Dockerfile", ("hack/sidecar",), tools=("prometheus", "alertmanager")),
        Image("demo-model", "hack/model.Dockerfile", (), model=True),
    )
}


@dataclass(frozen=True)
class Target:
    """An image as it is now: the reference that its content has earned and the archive that holds it."""

    image: Image
    tag: str
    reference: str = field(init=False)
    archive: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", f"{REPOSITORY}{self.image.name}:{self.tag}")
        object.__setattr__(self, "archive", IMAGES / f"{PREFIX}{self.image.name}-{self.tag}.tar")


def target(name: str, *, model: Path, root: Path = ROOT) -> Target:
    """The image called `name` (with or without its prefix) as the files under `root` make it.

    Args:
        name: a key of the catalogue.
        model: the folder of the small model; its name carries its content's hash.
        root: the checkout, or a copy of it.
    """
    image = CATALOG[name.removeprefix(PREFIX)]
    content = hashlib.sha256()
    for part in (image.dockerfile, *image.sources):
        for file in _files(root / part):
            content.update(f"{file.relative_to(root)}\0{file.stat().st_mode & 0o111:o}\0".encode())
            content.update(hashlib.sha256(file.read_bytes()).digest())
    content.update((target(image.parent, model=model, root=root).tag if image.parent else RECIPE).encode())
    if image.model:
        content.update(model.name.encode())
    for each in image.tools:
        content.update(tools.pins(tools.MODULES / each).encode())
    return Target(image, content.hexdigest()[:12])


def in_order(names: list[str]) -> list[str]:
    """The names (all when empty), each after the image it stands on, none twice.

    Raises:
        KeyError: a name is not in the catalogue.
    """
    ordered: dict[str, None] = {}
    for name in names or list(CATALOG):
        image = CATALOG[name.removeprefix(PREFIX)]
        if image.parent:
            ordered[image.parent] = None
        ordered[image.name] = None
    return list(ordered)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for file in sorted(path.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            yield file
