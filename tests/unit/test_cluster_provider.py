from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hack.cluster.existing import Existing
from hack.cluster.fromsource import images
from hack.cluster.images import write_archive
from hack.cluster.provider import Provider, choose


@dataclass
class Candidate:
    """A provider that can only be chosen."""

    name: str
    lacks: list[str] = field(default_factory=list)
    kubeconfig: Path = Path("kubeconfig")

    def missing(self) -> list[str]:
        return self.lacks

    def up(self) -> Path:
        return self.kubeconfig

    def down(self, *, purge: bool = False) -> None: ...

    def running(self) -> bool:
        return False

    def load_images(self, archives: Sequence[Path]) -> None: ...


DOCKER = ["docker on PATH"]
ALL_FIT: list[Provider] = [Candidate("kind"), Candidate("from-source"), Candidate("existing")]
NO_DOCKER: list[Provider] = [Candidate("kind", DOCKER), Candidate("from-source"), Candidate("existing")]
NONE_FITS: list[Provider] = [Candidate("kind", DOCKER), Candidate("from-source", ["root", "Go"])]


@pytest.mark.parametrize(
    ("asked", "environment", "candidates", "chosen"),
    [
        pytest.param(None, None, ALL_FIT, "kind", id="nothing said: the first that fits"),
        pytest.param("auto", None, NO_DOCKER, "from-source", id="auto without docker: from source"),
        pytest.param("existing", None, ALL_FIT, "existing", id="the one that is named"),
        pytest.param(None, "from-source", ALL_FIT, "from-source", id="the one the environment names"),
        pytest.param("kind", "existing", ALL_FIT, "kind", id="the command line wins over the environment"),
    ],
)
def test_the_provider_that_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
    asked: str | None,
    environment: str | None,
    candidates: list[Provider],
    chosen: str,
) -> None:
    if environment is None:
        monkeypatch.delenv("LLMOPS_CLUSTER", raising=False)
    else:
        monkeypatch.setenv("LLMOPS_CLUSTER", environment)
    assert choose(asked, candidates).name == chosen


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        pytest.param("auto", "kind: needs docker on PATH\n  from-source: needs root, and Go$", id="all of it"),
        pytest.param("kind", "machine:\n  kind: needs docker on PATH$", id="only of the one that was asked for"),
        pytest.param("minikube", "'minikube'; there are: auto, kind, from-source$", id="a name that does not exist"),
    ],
)
def test_a_refusal_says_what_is_missing(asked: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        choose(asked, NONE_FITS)


def test_an_existing_cluster_takes_no_archives_and_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"operator.tar.*push them to a registry"):
        Existing(assume_yes=True).load_images([Path("operator.tar")])


def test_an_archive_is_known_by_name_and_content(tmp_path: Path) -> None:
    for name, program in (("one", b"a"), ("same", b"a"), ("other", b"b")):
        write_archive(tmp_path / f"{name}.tar", "localhost/try:1", program)
    one, same, other = (images(tmp_path / f"{name}.tar") for name in ("one", "same", "other"))
    assert list(one) == ["localhost/try:1"]
    assert one == same
    assert one != other


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_text("not a tar")
    with pytest.raises(RuntimeError, match=r"image.tar is no image archive"):
        images(tmp_path / "image.tar")
