import re
import shutil
import tomllib
from pathlib import Path

import pytest

from hack.images.catalog import CATALOG, Image, in_order, target
from hack.images.places import LOCKS, ROOT

MODEL = Path("models/tiny-llama-0123456789ab")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that the tests may change: each compares it with what it was just before."""
    folder = tmp_path_factory.mktemp("checkout")
    for part in ("operator", "serving", "hack"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "tools"))
    return folder


def tags(checkout: Path, model: Path = MODEL) -> dict[str, str]:
    return {name: target(name, model=model, root=checkout).tag for name in CATALOG}


CHANGES = {
    "what the operator shares with pods changes all that copies it": (
        "operator/llmops/names.py",
        {"operator", "serving", "trainer", "demo-hub"},
    ),
    "what only the operator does leaves all others alone": ("operator/llmops/shell/reconcile.py", {"operator"}),
    "the gateway's code leaves operator and engine alone": (
        "serving/llmops_serving/__init__.py",
        {"serving", "trainer", "demo-hub"},
    ),
    "the engine's lock changes the engine and what stands on it": ("hack/locks/engine.txt", {"engine-cpu", "trainer"}),
    "the trainer's lock leaves the engine alone": ("hack/locks/trainer.txt", {"trainer"}),
    "a Dockerfile changes its image": ("operator/Dockerfile", {"operator"}),
    "the hub's code changes the hub": ("hack/hub/__main__.py", {"demo-hub"}),
    "the sidecar's code changes what watches": ("hack/sidecar/__main__.py", {"demo-monitoring"}),
}


@pytest.mark.parametrize(("changed", "renamed"), CHANGES.values(), ids=CHANGES)
def test_a_change_renames_just_the_images_it_is_in(checkout: Path, changed: str, renamed: set[str]) -> None:
    before = tags(checkout)
    with (checkout / changed).open("a") as file:
        file.write("\n# changed\n")
    after = tags(checkout)
    assert {name for name in CATALOG if before[name] != after[name]} == renamed


def test_another_model_makes_other_images_of_it(checkout: Path) -> None:
    other = tags(checkout, model=MODEL.with_name("tiny-llama-ba9876543210"))
    assert {name for name, tag in tags(checkout).items() if other[name] != tag} == {"demo-hub", "demo-model"}


def test_compiled_files_do_not_count(checkout: Path) -> None:
    before = tags(checkout)
    cache = checkout / "operator" / "llmops" / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "names.cpython-311.pyc").write_bytes(b"\0")
    assert tags(checkout) == before


ORDERS = {
    "an image comes after the one it stands on": (["trainer"], ["engine-cpu", "trainer"]),
    "none comes twice": (["demo-hub", "serving", "llmops-serving"], ["serving", "demo-hub"]),
    "no name means all": ([], list(CATALOG)),
}


@pytest.mark.parametrize(("asked", "built"), ORDERS.values(), ids=ORDERS)
def test_order_of_building(asked: list[str], built: list[str]) -> None:
    assert in_order(asked) == built


@pytest.mark.parametrize("image", CATALOG.values(), ids=CATALOG)
def test_what_a_dockerfile_copies_is_what_its_name_is_made_of(image: Image) -> None:
    lines = (ROOT / image.dockerfile).read_text().splitlines()
    copied = {
        source
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for source in line.removeprefix("COPY ").split()[:-1]
    }
    parts_of_others = {path for path in copied if {*map(str, Path(path).parents)} & copied}
    assert copied - parts_of_others == set(image.sources)


LOCKED_EXTRAS = {
    "operator": ("operator",),
    "serving": ("gateway", "jobs"),
    "trainer": ("jobs", "training"),
    "dev": ("operator", "cli", "gateway", "jobs"),
}


@pytest.mark.parametrize(("lock", "extras"), LOCKED_EXTRAS.items(), ids=LOCKED_EXTRAS)
def test_a_lock_holds_all_that_its_code_depends_on(lock: str, extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    locked = set(re.findall(r"^([a-z0-9-]+)==", (LOCKS / f"{lock}.txt").read_text(), re.MULTILINE))
    assert {re.split(r"[><=\[ ]", requirement)[0].lower() for requirement in asked} - locked == set()
