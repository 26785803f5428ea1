"""`llmops repo` with nothing but the bucket and the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from llmops.api.llm_deployment import LLMDeployment
from llmops.api.refusals import refusals
from llmops.cli.repo import app
from llmops_serving.jobs.repository.write import backup
from tests.integration.repository.models import KEY, blob_files, contents, model, ref, repository

DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "llmops.dev/v1alpha1",
    "kind": "LLMDeployment",
    "metadata": {"name": "support", "namespace": "team-a", "uid": "1", "resourceVersion": "2", "managedFields": []},
    "spec": {
        "model": {"source": "hf://org/model", "revision": "main", "secretRef": {"name": "hf"}},
        "replicas": 1,
        "backup": {"target": "s3://backups/llm", "secretRef": {"name": "s3"}, "weights": "Pointer"},
    },
    "status": {"conditions": []},
}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMOPS_REPOSITORY_KEY", KEY.decode())
    monkeypatch.setenv("LLMOPS_REPOSITORY", f"file://{tmp_path}/repo")
    base = model(tmp_path / "base")
    for day in range(2):
        backup(repository(tmp_path / "repo"), {"": base}, ref=ref(day=day), documents={"support.json": DEPLOYMENT})
    return base


def llmops(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*arguments])
    return done.exit_code, done.output


def test_list(base: Path) -> None:
    code, output = llmops("list", "--json")
    assert code == 0
    size = sum(len(data) for data in contents(base).values())
    assert json.loads(output) == [
        {"name": "support", "point": ref(day=day).point, "files": 3, "bytes": size, "verified": False, "held": False}
        for day in range(2)
    ]


@pytest.mark.usefixtures("base")
def test_check_names_what_is_damaged(tmp_path: Path) -> None:
    assert llmops("check", "--read-data")[0] == 0
    victim = blob_files(tmp_path / "repo")[0]
    victim.unlink()
    code, output = llmops("check", "--json")
    assert (code, json.loads(output)["findings"][0]["object"].split("/")[-1]) == (1, victim.name)


def test_extract(base: Path, tmp_path: Path) -> None:
    code, output = llmops("extract", "support", str(tmp_path / "out"))
    assert (code, "every digest checked" in output) == (0, True)
    assert contents(tmp_path / "out") == contents(base)


@pytest.mark.usefixtures("base")
def test_gc_says_what_it_would_do() -> None:
    code, output = llmops("gc", "--keep-last", "1", "--dry-run")
    assert code == 0
    assert f"drop support@{ref(day=0).point}  OutsidePolicy" in output
    assert llmops("hold", f"support@{ref(day=0).point}")[0] == 0
    assert "drop" not in llmops("gc", "--keep-last", "1")[1].split("points dropped")[0]


@pytest.mark.usefixtures("base")
def test_recover_writes_what_to_apply_in_an_empty_cluster(tmp_path: Path) -> None:
    assert llmops("recover", str(tmp_path / "recovered"))[0] == 0
    found = list(yaml.safe_load_all((tmp_path / "recovered" / "support.yaml").read_text()))
    assert refusals(LLMDeployment, found[0]) == []
    assert found == [
        {
            "apiVersion": "llmops.dev/v1alpha1",
            "kind": "LLMDeployment",
            "metadata": {"name": "support", "namespace": "team-a"},
            "spec": {
                "model": {"source": f"backup://{ref(day=1).source}"},
                "replicas": 1,
                "backup": {"target": "s3://backups/llm", "secretRef": {"name": "s3"}},
            },
        }
    ]


def test_recover_brings_adapters_back_from_the_point_where_it_has_them(base: Path, tmp_path: Path) -> None:
    wished = [{"name": name, "source": f"finetune://{name}-lora"} for name in ("tickets", "not-trained-yet")]
    document = {**DEPLOYMENT, "spec": {**DEPLOYMENT["spec"], "adapters": wished}}
    adapter = model(tmp_path / "adapter", seed=9, layers=1)
    roots = {"": base, "adapters/tickets": adapter}
    backup(repository(tmp_path / "repo"), roots, ref=ref(day=2), documents={"support.json": document})
    assert llmops("recover", str(tmp_path / "recovered"))[0] == 0
    (found,) = yaml.safe_load_all((tmp_path / "recovered" / "support.yaml").read_text())
    assert refusals(LLMDeployment, found) == []
    assert found["spec"]["adapters"] == [{"name": "tickets", "source": f"backup://{ref(day=2).source}"}, wished[1]]


@pytest.mark.usefixtures("base")
def test_another_key_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("another key of enough bytes")
    code, output = llmops("list", "--key-file", str(tmp_path / "key"))
    assert (code, output.strip()) == (1, "RepositoryKeyWrong: the Secret is not this repository's key")


@pytest.mark.usefixtures("base")
def test_after_rotation_only_the_new_key_opens(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("another key of enough bytes")
    assert llmops("rotate-key", str(tmp_path / "key"))[0] == 0
    assert llmops("list")[0] == 1
    assert llmops("list", "--key-file", str(tmp_path / "key"))[0] == 0
