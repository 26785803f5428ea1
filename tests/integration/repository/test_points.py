from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest
from safetensors import safe_open

from llmops.judge.retention import Policy
from llmops_serving.jobs.repository.bases import Index
from llmops_serving.jobs.repository.collect import collect, drop, hold
from llmops_serving.jobs.repository.errors import (
    Damaged,
    DestinationExists,
    KeyWrong,
    NotARepository,
    PointExists,
    PointNotFound,
    Unsafe,
)
from llmops_serving.jobs.repository.format import FILES_LIMIT, FileEntry, Manifest, PointRef, check_tree, parsed_ref
from llmops_serving.jobs.repository.pointer import PointerMode, pointers
from llmops_serving.jobs.repository.read import restore
from llmops_serving.jobs.repository.repository import Repository
from llmops_serving.jobs.repository.target import Target
from llmops_serving.jobs.repository.verify import verify
from llmops_serving.jobs.repository.write import backup
from tests.integration.repository.models import KEY, blob_files, contents, model, ref, repository


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return repository(tmp_path / "repo")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return model(tmp_path / "base")


def test_what_was_backed_up_comes_back(repo: Repository, base: Path, tmp_path: Path) -> None:
    done = backup(repo, {"": base}, ref=ref(), documents={"support.json": {"kind": "LLMDeployment"}})
    restored = restore(repo, repo.find("support"), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(base)
    assert (done.bytes, restored.bytes, restored.reused_bytes) == (done.bytes, done.bytes, 0)
    assert repo.manifest(ref()).documents == {"support.json": {"kind": "LLMDeployment"}}
    assert done.stored_bytes < 0.9 * done.bytes


def test_the_same_content_again_stores_nothing(repo: Repository, base: Path) -> None:
    backup(repo, {"": base}, ref=ref(day=0))
    again = backup(repo, {"": base}, ref=ref("other", day=1))
    assert (again.new_bytes, again.existed) == (0, False)


def test_a_retry_of_a_finished_backup_is_a_success_without_a_second_point(repo: Repository, base: Path) -> None:
    backup(repo, {"": base}, ref=ref())
    assert backup(repo, {"": base}, ref=ref()).existed
    assert repo.points() == [ref()]


def test_another_content_under_the_same_name_is_refused(repo: Repository, base: Path, tmp_path: Path) -> None:
    backup(repo, {"": base}, ref=ref())
    with pytest.raises(PointExists):
        backup(repo, {"": model(tmp_path / "else", seed=5)}, ref=ref())


def test_a_fine_tune_is_stored_as_a_difference_to_its_base(repo: Repository, base: Path, tmp_path: Path) -> None:
    backup(repo, {"": base}, ref=ref("base"))
    tuned = model(tmp_path / "tuned", noise=1e-6)
    done = backup(repo, {"": tuned}, ref=ref("tuned"))
    alone = backup(repository(tmp_path / "alone"), {"": tuned}, ref=ref("tuned"))
    assert done.new_bytes < 0.5 * alone.new_bytes
    restore(repo, ref("tuned"), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tuned)


def test_differences_are_one_deep(repo: Repository, base: Path, tmp_path: Path) -> None:
    backup(repo, {"": base}, ref=ref("m", 0))
    for day in range(1, 4):
        backup(repo, {"": model(tmp_path / str(day), noise=day * 1e-6)}, ref=ref("m", day))
    based = [blob for blob, _ in repo.objects() if blob.base]
    assert based
    assert all(blob.base and blob.base.base is None for blob in based)


def test_the_hash_cache_spares_reading_and_notices_changes(repo: Repository, base: Path, tmp_path: Path) -> None:
    for at in base.iterdir():
        os.utime(at, (1_600_000_000, 1_600_000_000))
    # ctime is fresh, so nothing is remembered yet: a file this young may change again within its timestamp
    backup(repo, {"": base}, ref=ref(day=0), cache_folder=tmp_path / "cache")
    (base / "config.json").write_text('{"hidden_size": 257}')
    backup(repo, {"": base}, ref=ref(day=1), cache_folder=tmp_path / "cache")
    restore(repo, ref(day=1), tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_text() == '{"hidden_size": 257}'


def test_adapters_come_along_under_their_names(repo: Repository, base: Path, tmp_path: Path) -> None:
    adapter = model(tmp_path / "adapter", seed=9, layers=1)
    backup(repo, {"": base, "adapters/tickets": adapter}, ref=ref())
    restore(repo, ref(), tmp_path / "out")
    assert contents(tmp_path / "out" / "adapters" / "tickets") == contents(adapter)


def test_an_interrupted_restore_goes_on(repo: Repository, base: Path, tmp_path: Path) -> None:
    backup(repo, {"": base}, ref=ref())
    staging = tmp_path / f".out.{ref().name}.{ref().point}.partial"
    staging.mkdir()
    whole = (base / "model.safetensors").read_bytes()
    (staging / "model.safetensors").write_bytes(whole[: 2 * len(whole) // 3])
    (staging / "stranger").symlink_to("/etc/passwd")
    done = restore(repo, ref(), tmp_path / "out")
    assert 0 < done.reused_bytes < done.bytes
    assert contents(tmp_path / "out") == contents(base)


def test_staged_bytes_that_are_wrong_are_fetched_again(repo: Repository, base: Path, tmp_path: Path) -> None:
    backup(repo, {"": base}, ref=ref())
    staging = tmp_path / f".out.{ref().name}.{ref().point}.partial"
    staging.mkdir()
    (staging / "model.safetensors").write_bytes(bytes((base / "model.safetensors").stat().st_size))
    restore(repo, ref(), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(base)


def test_a_destination_with_the_same_content_is_left_and_another_is_not_replaced(
    repo: Repository, base: Path, tmp_path: Path
) -> None:
    backup(repo, {"": base}, ref=ref())
    assert restore(repo, ref(), base).reused_bytes == repo.manifest(ref()).bytes
    serving = model(tmp_path / "serving", seed=3)
    before = contents(serving)
    with pytest.raises(DestinationExists):
        restore(repo, ref(), serving)
    assert contents(serving) == before


def test_a_damaged_point_is_named_and_replaces_nothing(repo: Repository, base: Path, tmp_path: Path) -> None:
    backup(repo, {"": base}, ref=ref())
    victim = max(blob_files(tmp_path / "repo"), key=lambda at: at.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1] + b"\0")
    with pytest.raises(Damaged, match=victim.name):
        restore(repo, ref(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = verify(repo, KEY)
    assert [(finding.object, finding.points) for finding in report.findings] == [
        (victim.relative_to(tmp_path / "repo").as_posix(), (str(ref()),))
    ]
    assert (report.bad, report.verified) == ((ref(),), ())


def test_after_damage_the_next_backup_stores_the_content_anew_and_heals_older_points(
    repo: Repository, base: Path, tmp_path: Path
) -> None:
    backup(repo, {"": base}, ref=ref(day=0))
    victim = max(blob_files(tmp_path / "repo"), key=lambda at: at.stat().st_size)
    victim.write_bytes(b"")
    verify(repo, KEY)
    assert backup(repo, {"": base}, ref=ref(day=1)).new_bytes > 0
    for day in (0, 1):
        restore(repo, ref(day=day), tmp_path / f"out{day}")
        assert contents(tmp_path / f"out{day}") == contents(base)


def test_the_newest_verified_point_is_meant_by_a_bare_name(repo: Repository, base: Path, tmp_path: Path) -> None:
    backup(repo, {"": base}, ref=ref(day=0))
    verify(repo, KEY)
    backup(repo, {"": model(tmp_path / "newer", seed=2)}, ref=ref(day=1))
    assert repo.find("support") == ref(day=0)
    verify(repo, KEY)
    assert repo.find("backup://support") == ref(day=1)
    assert repo.find("support@2026-11-01T03:00:00Z") == ref(day=0)
    with pytest.raises(PointNotFound):
        repo.find("nobody")


@pytest.mark.parametrize("lost", ["repository", "keys", "points"])
def test_the_small_objects_are_there_twice(repo: Repository, base: Path, tmp_path: Path, lost: str) -> None:
    backup(repo, {"": base}, ref=ref())
    for at in [at for at in (tmp_path / "repo").rglob("*") if at.is_file()]:
        if at.relative_to(tmp_path / "repo").parts[0] == lost:
            at.unlink()
    again = repository(tmp_path / "repo")
    restore(again, ref(), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(base)
    assert [finding.object.split("/")[0] for finding in verify(again, KEY).findings] == [lost]


def test_another_key_opens_nothing_and_a_new_one_does_after_rotation(
    repo: Repository, base: Path, tmp_path: Path
) -> None:
    backup(repo, {"": base}, ref=ref())
    blobs = {at: at.read_bytes() for at in blob_files(tmp_path / "repo")}
    with pytest.raises(KeyWrong):
        repository(tmp_path / "repo", key=b"another key of enough bytes")
    repo.rotate(b"another key of enough bytes\n")
    assert repository(tmp_path / "repo", key=b"another key of enough bytes").points() == [ref()]
    with pytest.raises(KeyWrong):
        repository(tmp_path / "repo")
    assert {at: at.read_bytes() for at in blob_files(tmp_path / "repo")} == blobs


def test_keys_that_are_too_short_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyWrong, match="at least 16"):
        repository(tmp_path / "repo", key=b"short")


def test_nothing_of_the_model_shows_in_the_bucket(repo: Repository, base: Path, tmp_path: Path) -> None:
    backup(repo, {"": base}, ref=ref())
    everything = b"".join(at.read_bytes() for at in (tmp_path / "repo").rglob("*") if at.is_file())
    assert b"embed_tokens" not in everything
    assert b"hidden_size" not in everything


def test_an_empty_bucket_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(NotARepository):
        Repository.open(Target.open(f"file://{tmp_path}"), KEY)


# -- collection


def test_garbage_is_condemned_first_and_deleted_a_grace_later(tmp_path: Path, base: Path) -> None:
    repo = repository(tmp_path / "repo", grace_seconds=0)
    backup_with(repo, base, day=0)
    backup_with(repo, model(tmp_path / "else", seed=7), day=1)
    first = collect(repo, policies={"": Policy(keep_last=1)})
    assert (first.dropped, first.deleted, first.condemned > 0) == ((ref(day=0),), 0, True)
    second = collect(repo)
    assert (second.deleted, second.condemned) == (first.condemned, 0)
    assert verify(repo, KEY, depth="all").clean
    restore(repo, ref(day=1), tmp_path / "out")


def test_a_base_stays_as_long_as_a_difference_needs_it(tmp_path: Path, base: Path) -> None:
    repo = repository(tmp_path / "repo", grace_seconds=0)
    backup_with(repo, base, day=0)
    tuned = model(tmp_path / "tuned", noise=1e-6)
    backup_with(repo, tuned, day=1)
    drop(repo, ref(day=0))
    for _ in range(3):
        collect(repo)
    restore(repo, ref(day=1), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tuned)


def test_a_writer_does_not_refer_to_what_is_condemned(tmp_path: Path, base: Path) -> None:
    repo = repository(tmp_path / "repo", grace_seconds=0)
    backup_with(repo, base, day=0)
    drop(repo, ref(day=0))
    collect(repo)
    names = {name for _, listed in repo.condemned().values() for name in listed}
    assert names
    assert not {blob.object for blob in Index(repo).stored} & names


def test_a_held_point_stays_and_a_lost_manifest_stops_the_collection(tmp_path: Path, base: Path) -> None:
    repo = repository(tmp_path / "repo", grace_seconds=0)
    for day in range(3):
        backup_with(repo, base, day=day)
    hold(repo, ref(day=0), on=True)
    assert collect(repo, policies={"": Policy(keep_last=1)}).dropped == (ref(day=1),)
    for place in ("points", "copy/points"):
        (tmp_path / "repo" / place / "support" / ref(day=2).point).write_bytes(b"damaged")
    before = blob_files(tmp_path / "repo")
    with pytest.raises(Damaged):
        collect(repo)
    assert blob_files(tmp_path / "repo") == before


def test_a_dry_run_changes_nothing(tmp_path: Path, base: Path) -> None:
    repo = repository(tmp_path / "repo", grace_seconds=0)
    for day in range(2):
        backup_with(repo, base, day=day)
    done = collect(repo, policies={"": Policy(keep_last=1)}, dry_run=True)
    assert done.dropped == (ref(day=0),)
    assert repo.points() == [ref(day=0), ref(day=1)]


def backup_with(repo: Repository, folder: Path, *, day: int) -> None:
    # A grace of zero would make every writer late, so the header's grace counts from here on for collectors only.
    patient = Repository(repo.target, repo.header.__class__(repo.header.id, 3600, repo.header.raw), repo.keys)
    backup(patient, {"": folder}, ref=ref(day=day))


# -- what is refused


def test_a_late_writer_does_not_commit(tmp_path: Path, base: Path) -> None:
    repo = repository(tmp_path / "repo", grace_seconds=0)
    with pytest.raises(Exception, match="took longer"):
        backup(repo, {"": base}, ref=ref())
    assert repo.points() == []


def link_out(base: Path) -> None:
    (base / "weights.safetensors").symlink_to("/etc/passwd")


def link_to_folder(base: Path) -> None:
    (base / "loop").symlink_to(base, target_is_directory=True)


def dangling(base: Path) -> None:
    (base / "gone").symlink_to("not-there")


def pipe(base: Path) -> None:
    os.mkfifo(base / "pipe")


def device(base: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(base / "s"))


def pickled(base: Path) -> None:
    (base / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def lying(base: Path) -> None:
    (base / "x.safetensors").write_bytes((1 << 40).to_bytes(8, "little"))


@pytest.mark.parametrize("poison", [link_out, link_to_folder, dangling, pipe, device, pickled, lying])
def test_a_source_with_poison_makes_no_point(repo: Repository, base: Path, poison: object) -> None:
    assert callable(poison)
    poison(base)
    with pytest.raises(Unsafe):
        backup(repo, {"": base}, ref=ref())
    assert repo.points() == []


def test_pickles_go_in_and_out_only_when_allowed(repo: Repository, base: Path, tmp_path: Path) -> None:
    pickled(base)
    backup(repo, {"": base}, ref=ref(), allow_pickle=True)
    with pytest.raises(Unsafe):
        restore(repo, ref(), tmp_path / "out")
    restore(repo, ref(), tmp_path / "out", allow_pickle=True)
    assert contents(tmp_path / "out") == contents(base)


def test_secrets_are_not_taken(repo: Repository, base: Path) -> None:
    with pytest.raises(Unsafe):
        backup(repo, {"": base}, ref=ref(), documents={"s.json": {"kind": "Secret"}})


@pytest.mark.parametrize(
    "paths",
    [
        pytest.param(["/etc/passwd"], id="absolute"),
        pytest.param(["../x"], id="upwards"),
        pytest.param(["a/../../x"], id="upwards inside"),
        pytest.param(["a//b"], id="an empty part"),
        pytest.param(["./a"], id="a dot"),
        pytest.param([""], id="empty"),
        pytest.param(["a\\b"], id="a backslash"),
        pytest.param(["a\nb"], id="a line break"),
        pytest.param(["a\0b"], id="a zero byte"),
        pytest.param(["x" * 1025], id="too long"),
        pytest.param(["a", "a"], id="twice the same"),
        pytest.param(["a", "a/b"], id="a file that is also a folder"),
    ],
)
def test_paths_that_a_restore_refuses(paths: list[str]) -> None:
    with pytest.raises(Unsafe):
        check_tree(paths)


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        pytest.param(["../x"], "refused path", id="a path that leads out"),
        pytest.param([f"f{number}" for number in range(FILES_LIMIT + 1)], "the limit is", id="no end of files"),
    ],
)
def test_a_point_by_somebody_hostile_with_the_key_is_refused_whole(
    repo: Repository, tmp_path: Path, paths: list[str], says: str
) -> None:
    files = tuple(FileEntry(path, 0, hashlib.sha256().hexdigest(), (), "") for path in paths)
    repo.commit(Manifest(ref(), files, {}, ""))
    with pytest.raises(Unsafe, match=says):
        restore(repo, ref(), tmp_path / "in" / "out")
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize("text", ["", "../x", "a@b", "A", "a@2026", "a/b", "a@20261101T030000Z@x"])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(Unsafe):
        parsed_ref(text)


# -- verification in turns, layouts, pointers


def test_rotation_reads_everything_within_the_cover_time(repo: Repository, base: Path) -> None:
    backup(repo, {"": base}, ref=ref())
    assert verify(repo, KEY).verified == (ref(),)
    assert verify(repo, KEY).read_objects < verify(repo, KEY, depth="all").read_objects


def test_layouts_are_compared_with_the_config(repo: Repository, base: Path) -> None:
    (base / "config.json").write_text('{"hidden_size": 512, "vocab_size": 2048, "num_hidden_layers": 9}')
    (base / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "model.safetensors"}}')
    backup(repo, {"": base}, ref=ref())
    problems = [finding.problem for finding in verify(repo, KEY, layouts=True).findings]
    assert problems == [
        "4 layers are stored; the config says 9",
        "model.embed_tokens.weight has shape [2048, 256]; the config says [2048, 512]",
        "names 1 tensors that no file has, such as lm_head.weight",
    ]


PINNED = "0123456789" * 4


@pytest.mark.parametrize(
    ("mode", "source", "revision", "trained_here", "expected"),
    [
        ("Auto", "hf://org/model", PINNED, False, True),
        ("Auto", "hf://org/model", "main", False, False),
        ("Auto", "s3://bucket/model", PINNED, False, False),
        ("Auto", "hf://org/model", PINNED, True, False),
        ("Full", "hf://org/model", PINNED, False, False),
        ("Pointer", "hf://org/model", PINNED, False, True),
    ],
)
def test_what_is_kept_as_a_pointer(
    base: Path, mode: str, source: str, revision: str, *, trained_here: bool, expected: bool
) -> None:
    found = pointers(PointerMode(mode), {"": base}, source, revision, trained_here=trained_here)
    url = {"model.safetensors": f"hf://org/model@{PINNED}/model.safetensors"}
    assert found == (url if expected else {})


def test_a_pointer_is_fetched_and_its_digest_checked(repo: Repository, base: Path, tmp_path: Path) -> None:
    url = f"hf://org/model@{PINNED}/model.safetensors"
    done = backup(repo, {"": base}, ref=ref(), pointers={"model.safetensors": url})
    assert done.stored_bytes < 2000

    def fetch(_: object, at: Path) -> None:
        at.write_bytes((base / "model.safetensors").read_bytes())

    restore(repo, ref(), tmp_path / "out", fetch=fetch)
    with safe_open(tmp_path / "out" / "model.safetensors", framework="np") as opened:
        assert len(opened.keys()) == 5
    with pytest.raises(Damaged, match="no longer has the recorded digest"):
        restore(repo, ref(), tmp_path / "other", fetch=lambda _, at: at.write_bytes(b"something else") and None)
    assert not (tmp_path / "other").exists()


def test_points_of_two_names_do_not_mix(repo: Repository, base: Path) -> None:
    for name in ("a.support", "b.support"):
        backup(repo, {"": base}, ref=PointRef(name, ref().point))
    drop(repo, PointRef("a.support", ref().point))
    assert repo.points() == [PointRef("b.support", ref().point)]
