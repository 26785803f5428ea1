"""What the API server makes of the definitions: it takes them, explains them, and refuses what they refuse."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hack.cluster.controlplane import ControlPlane
from llmops.api import crd
from llmops.api.refusals import refusals
from tests.apiserver.operating import ROOT
from tests.apiserver.specs import ACCEPTABLE, merged, table

Json = dict[str, Any]
KINDS = {kind.plural: kind for kind in crd.KINDS}
STRICT = {"dryRun": "All", "fieldValidation": "Strict"}
EXAMPLES = sorted((ROOT / "manifests" / "examples").glob("*.yaml"))


def path(plural: str, name: str = "") -> str:
    return f"/apis/llmops.dev/v1alpha1/namespaces/default/{plural}/{name}".rstrip("/")


def cases(folder: str) -> list[Any]:
    return [
        pytest.param(plural, case, id=f"{plural}: {case['case']}") for plural in KINDS for case in table(folder, plural)
    ]


def create(client: httpx.Client, plural: str, manifest: Json) -> httpx.Response:
    return client.post(path(plural), params=STRICT, json=manifest)


@pytest.mark.parametrize(("plural", "case"), cases("bad_specs"))
def test_what_is_wrong_is_refused_by_name(client: httpx.Client, plural: str, case: Json) -> None:
    answer = create(client, plural, merged(ACCEPTABLE[plural], case["change"]))
    assert answer.status_code in (400, 422), f"accepted: {answer.text}"
    status = answer.json()
    fields = [cause.get("field", "") for cause in status.get("details", {}).get("causes", [])]
    named = any(field.startswith(case["field"]) for field in fields) or f'"{case["field"]}' in status["message"]
    assert named, f"names {fields}: {status['message']}"
    assert case["says"] in status["message"]


def test_there_are_enough_bad_specs() -> None:
    assert len(table("bad_specs", "llmdeployments")) >= 60


@pytest.mark.parametrize(("plural", "case"), cases("good_specs"))
def test_what_is_right_is_accepted(client: httpx.Client, plural: str, case: Json) -> None:
    answer = create(client, plural, merged(ACCEPTABLE[plural], case["change"]))
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_examples_are_accepted(client: httpx.Client, file: Any) -> None:
    ours = [
        each for each in yaml.safe_load_all(file.read_text()) if each and each["apiVersion"].startswith("llmops.dev/")
    ]
    for manifest in ours:
        manifest["metadata"]["namespace"] = "default"
        answer = create(client, f"{manifest['kind'].lower()}s", manifest)
        assert answer.status_code == 201, answer.text


@pytest.mark.parametrize(("plural", "case"), cases("bad_changes"))
def test_a_stored_object_changes_only_as_far_as_its_parts_can(client: httpx.Client, plural: str, case: Json) -> None:
    old = merged(ACCEPTABLE[plural], merged(case["from"], {"metadata": {"name": "stored"}}))
    stored = client.post(path(plural), json=old)
    assert stored.status_code == 201, stored.text
    try:
        new = merged(
            old, merged(case["change"], {"metadata": {"resourceVersion": stored.json()["metadata"]["resourceVersion"]}})
        )
        answer = client.put(path(plural, "stored"), params=STRICT, json=new)
    finally:
        client.delete(path(plural, "stored"))
    if "field" not in case:
        assert answer.status_code == 200, answer.text
        return
    assert answer.status_code == 422, answer.text
    causes = answer.json()["details"]["causes"]
    assert [cause["field"] for cause in causes] == [case["field"]]
    assert case["says"] in causes[0]["message"]


@pytest.mark.parametrize("plural", KINDS)
def test_the_definition_is_structural_and_established(client: httpx.Client, plural: str) -> None:
    answer = client.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{KINDS[plural].name}").json()
    conditions = {each["type"]: each["status"] for each in answer["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert conditions["NamesAccepted"] == "True"
    assert "NonStructuralSchema" not in conditions
    assert "KubernetesAPIApprovalPolicyConformant" not in conditions


def test_kubectl_explain_is_a_manual(plane: ControlPlane) -> None:
    text = explained(plane, "llmd.spec.model")
    for words in (
        "KIND:       LLMDeployment",
        "source\t<string> -required-",
        "hf://meta-llama/Llama-3.1-8B-Instruct",
        "HF_TOKEN",
        "Default: main.",
        "Default: metadata.name.",
    ):
        assert words in text
    recursive = explained(plane, "llmd.spec", "--recursive")
    for words in ("requestsPerSecond", "accessMode\t<string>", "enum: ReadWriteOnce, ReadWriteMany"):
        assert words in recursive


def explained(plane: ControlPlane, *arguments: str) -> str:
    """`kubectl explain`, once the API server has published the schema, which it does a moment after establishing."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return plane.kubectl("explain", *arguments)
        except subprocess.CalledProcessError as error:
            if time.monotonic() > deadline or "have a resource type" not in error.stderr:
                raise


def test_kubectl_get_shows_ready_and_reason_first(plane: ControlPlane, client: httpx.Client) -> None:
    manifest = merged(ACCEPTABLE["llmdeployments"], {"metadata": {"name": "columns"}})
    client.post(path("llmdeployments"), json=manifest)
    try:
        heading, row = plane.kubectl("get", "llmd", "columns").splitlines()
        wide = plane.kubectl("get", "llmops", "-o", "wide").splitlines()[0]
    finally:
        client.delete(path("llmdeployments", "columns"))
    assert heading.split() == ["NAME", "READY", "REASON", "REPLICAS", "DESIRED", "MODEL", "AGE"]
    assert "hf://org/model" in row
    assert {"ACCELERATOR", "ENDPOINT"} <= set(wide.split())


def test_kubectl_scale_sets_the_size(plane: ControlPlane, client: httpx.Client) -> None:
    client.post(path("llmdeployments"), json=merged(ACCEPTABLE["llmdeployments"], {"metadata": {"name": "scaled"}}))
    try:
        plane.kubectl("scale", "llmd/scaled", "--replicas=3")
        assert client.get(path("llmdeployments", "scaled")).json()["spec"]["replicas"] == 3
    finally:
        client.delete(path("llmdeployments", "scaled"))


def test_defaults_are_the_models_own(client: httpx.Client) -> None:
    """The operator and its users see the same values, whether the API server or the model has filled them in."""
    for plural, kind in KINDS.items():
        bare = ACCEPTABLE[plural]
        stored = create(client, plural, bare).json()
        assert kind.model.from_manifest(stored).spec == kind.model.from_manifest(bare).spec  # type: ignore[attr-defined]


# One odd value at one place: most are wrong, some are right, and both sides must say the same of each.
TEXTS = (
    "", " ", "a", "A", "a b", "a/b", "-a", "a-", "a.b", "ä", "0", "00", "1.", "1.5", "0.5", "0.0", "1e3", "500m", "1Ki",
    "40Gi", "0Gi", "1.5Gi", "UTC", "Europe/Berlin", "0 7 * * 1-5", "* * * * *", "60 * * * *", "*/5 * * * MON", "x" * 63,
    "x" * 64, "x" * 300, "hf://a", "hf://a/b", "hf://a/../b", "s3://abc", "s3://abc/d/..", "s3://ab", "pvc://a/./b",
    "oci://r/a:b", "oci://r/a@sha256:" + "0" * 64, "https://h:99999/", "https://h/\n", "a\n", "main", "Equal", "Exists",
    "NoExecute", "auto", "ReadWriteMany", "null", "true", "'", '"', "{}", "%s", "\\", "system-a", "support",
)  # fmt: skip
SCALARS = (None, True, False, 0, 1, 2, 3, -1, 64, 65, 1000, 1001, 86400, 86401, 2**31, 2**53, 0.5, *TEXTS)
KEYS = (
    "a", "A", "seed", "model", "mod", "trust", "max-num-seqs", "a_b", "--a", "llmops.dev/a", "example.com/a", "a b", "",
    "cpu", "memory", "nvidia.com/gpu", "hugepages-2Mi", "x" * 64, "app.kubernetes.io/name",
)  # fmt: skip


def places(schema: Json, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Json]]:
    """Every field of a schema, list entries as `[]` and map entries as `{}`."""
    for name, each in schema.get("properties", {}).items():
        yield (*at, name), each
        yield from places(each, (*at, name))
    if "items" in schema:
        yield (*at, "[]"), schema["items"]
        yield from places(schema["items"], (*at, "[]"))
    if isinstance(schema.get("additionalProperties"), dict):
        yield (*at, "{}"), schema["additionalProperties"]


def placed(at: tuple[str, ...], value: Any, key: str) -> Any:
    """The value, wrapped so that it comes to lie at a place."""
    for name in reversed(at):
        value = [value] if name == "[]" else {key if name == "{}" else name: value}
    return value


def overlaid(base: Any, change: Any) -> Any:
    """The change laid over the base; nulls stay, unlike in a merge patch."""
    if isinstance(base, dict) and isinstance(change, dict):
        return base | {key: overlaid(base.get(key), value) for key, value in change.items()}
    return change


SPEC_PLACES = {
    plural: [
        at
        for at, _ in places(
            crd.definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        )
    ]
    for plural, kind in KINDS.items()
}


@st.composite
def manifests(draw: st.DrawFn) -> tuple[str, Json]:
    """An acceptable object with one to three values replaced."""
    plural = draw(st.sampled_from(sorted(KINDS)))
    start = draw(st.sampled_from(table("good_specs", plural)))
    manifest = merged(ACCEPTABLE[plural], start["change"])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(SPEC_PLACES[plural]))
        odd = draw(st.one_of(st.sampled_from(SCALARS), st.sampled_from([{}, [], [{}], {"a": "b"}])))
        manifest["spec"] = overlaid(manifest["spec"], placed(at, odd, draw(st.sampled_from(KEYS))))
    return plural, manifest


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=manifests())
def test_both_sides_judge_alike(client: httpx.Client, case: tuple[str, Json]) -> None:
    """The verdict of `llmops lint` is the API server's."""
    plural, manifest = case
    answer = create(client, plural, manifest)
    found = refusals(KINDS[plural].model, manifest)
    assert answer.status_code in (201, 400, 422), answer.text
    server = [] if answer.status_code == 201 else [answer.json()["message"]]
    assert bool(found) == bool(server), (
        f"model: {[str(each) for each in found]}; API server: {server}; {manifest['spec']}"
    )
