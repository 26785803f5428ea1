"""Programs built from Go modules, and kind's own reading of our configuration."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hack.cluster import tools
from hack.cluster.kind import CONFIG

pytestmark = pytest.mark.skipif(shutil.which("go") is None, reason="needs Go, which builds the tools")

MAIN = 'package main\n\nfunc main() { println("hello") }\n'


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tool set, hello, with one program that needs no other module; and an empty cache."""
    # Go's own caches have their places from HOME, ours from XDG_CACHE_HOME.
    for variable in ("GOCACHE", "GOMODCACHE"):
        place = subprocess.run(["go", "env", variable], capture_output=True, text=True, check=True).stdout.strip()
        monkeypatch.setenv(variable, place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module = tmp_path / "modules" / "hello"
    (module / "cmd" / "hello").mkdir(parents=True)
    (module / "cmd" / "hello" / "main.go").write_text(MAIN)
    (module / "go.mod").write_text("module example.com/hello\n\ngo 1.26.0\n\ntool example.com/hello/cmd/hello\n")
    (module / "go.sum").touch()
    return module.parent


def said(program: Path) -> str:
    return subprocess.run([program], capture_output=True, text=True, check=True).stderr


def test_a_program_is_built_once(modules: Path) -> None:
    first = tools.built("hello", modules) / "hello"
    assert said(first) == "hello\n"
    built_at = first.stat().st_mtime_ns
    assert (tools.built("hello", modules) / "hello").stat().st_mtime_ns == built_at


def test_a_build_that_was_killed_is_done_again(modules: Path) -> None:
    folder = tools.built("hello", modules)
    (folder / ".complete").unlink()
    (folder / "hello").write_text("half a progr")
    assert said(tools.built("hello", modules) / "hello") == "hello\n"


def test_two_that_build_at_once_share_the_result(modules: Path) -> None:
    with ThreadPoolExecutor() as pool:
        folders = set(pool.map(lambda _: tools.built("hello", modules), range(4)))
    assert len(folders) == 1
    assert sorted(path.name for path in folders.pop().iterdir()) == [".complete", "hello"]


def test_other_pins_are_another_folder(modules: Path) -> None:
    before = tools.built("hello", modules)
    pins = modules / "hello" / "go.mod"
    pins.write_text(pins.read_text().replace("1.26.0", "1.25.0"))
    assert tools.built("hello", modules) != before


def test_a_failed_build_says_what_the_compiler_said_and_leaves_nothing(modules: Path) -> None:
    (modules / "hello" / "cmd" / "hello" / "main.go").write_text("package main\n\nfunc main() { missing() }\n")
    with pytest.raises(RuntimeError, match="undefined: missing"):
        tools.built("hello", modules)
    assert not list((tools.cache() / "tools").glob("*hello*/hello"))


@pytest.mark.parametrize(
    ("replaced", "by", "complaint"),
    [
        pytest.param("nodes:", "nodes:", None, id="as it is"),
        pytest.param("nodes:", "node:", "field node not found", id="a field that does not exist"),
        pytest.param("v1alpha4", "v1alpha9", "unknown apiVersion", id="a version that does not exist"),
    ],
)
def test_kind_can_read_its_configuration(tmp_path: Path, replaced: str, by: str, complaint: str | None) -> None:
    config = tmp_path / "kind-config.yaml"
    config.write_text(CONFIG.read_text().replace(replaced, by))
    # kind reads the configuration before it asks for Docker, which is not to be found on this PATH.
    command: list[str | Path] = [tools.program("kind", "kind"), "create", "cluster", "--config", config]
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    if complaint is None:
        assert "config" not in done.stderr
        assert "executable file not found" in done.stderr
    else:
        assert complaint in done.stderr
