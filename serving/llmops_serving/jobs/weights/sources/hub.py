"""`hf://ORG/NAME`, a model or a data set: the Hugging Face Hub or a mirror, listed by its own client, read by file.

The client resolves the revision and lists the tree with digests. Bodies are read here rather than by its
`snapshot_download`, which checks sizes only, keeps a cache beside the files and cannot be asked for a digest per file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from llmops_serving.jobs.outcome import Failure, Reason, Transient
from llmops_serving.jobs.weights.names import MAX_FILES
from llmops_serving.jobs.weights.sources import http
from llmops_serving.jobs.weights.sources.source import Body, Expected, Listing, RemoteFile

# The base class of the HTTP library that the installed hub client is built on, which differs by its version.
HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]
DEFAULT_ENDPOINT = "https://huggingface.co"
API_SECONDS = 60.0


class HubSource:
    """A repository at one revision. The hub client takes its proxy from the environment."""

    def __init__(
        self,
        repo_id: str,
        revision: str,
        *,
        endpoint: str | None,
        token: str | None,
        proxy: str,
        kind: Literal["model", "dataset"] = "model",
    ) -> None:
        self._kind = kind
        self.repo_id, self.revision, self.token = repo_id, revision, token
        self.endpoint = (endpoint or DEFAULT_ENDPOINT).rstrip("/")
        self._api = HfApi(endpoint=self.endpoint, token=token or False)
        self._http = http.client(proxy)
        self._commit = ""

    def listing(self, pinned: str | None) -> Listing:
        with self._sorted():
            self._commit = pinned or self._resolved()
            files: list[RemoteFile] = []
            tree = self._api.list_repo_tree(self.repo_id, recursive=True, revision=self._commit, repo_type=self._kind)
            for entry in tree:
                if isinstance(entry, RepoFile):
                    files.append(_remote(entry))
                if len(files) > MAX_FILES:
                    raise Failure(Reason.UNSAFE_MODEL, f"{self.repo_id} has more than {MAX_FILES} files.")
        return Listing(self._commit, tuple(files))

    def open(self, file: RemoteFile, offset: int) -> AbstractContextManager[Body]:
        url = hf_hub_url(self.repo_id, file.path, repo_type=self._kind, revision=self._commit, endpoint=self.endpoint)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        # No If-Range: a commit's files do not change, and the CDN behind the redirect has ETags of its own.
        return http.opened(self._http, url, offset=offset, size_bytes=file.size_bytes, headers=headers, validator=None)

    def vouches(self, file: RemoteFile) -> bool:  # noqa: ARG002 - git and LFS digests always do
        return True

    def _resolved(self) -> str:
        about = self._api.repo_info(self.repo_id, repo_type=self._kind, revision=self.revision, timeout=API_SECONDS)
        commit = about.sha
        if not commit or not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise Failure(Reason.MODEL_NOT_FOUND, f"{self.endpoint} resolves {self.revision} to no commit.")
        return commit

    @contextmanager
    def _sorted(self) -> Iterator[None]:
        place = f"hf://{self.repo_id}"
        try:
            yield
        except GatedRepoError as error:
            message = f"{place} is gated: accept its terms on the hub and give HF_TOKEN in spec.model.secretRef."
            raise Failure(Reason.MODEL_AUTH_FAILED, message) from error
        except RevisionNotFoundError as error:
            raise Failure(Reason.MODEL_NOT_FOUND, f"{place} has no revision {self.revision!r}.") from error
        except RepositoryNotFoundError as error:
            private = "" if self.token else ", or it is private and needs HF_TOKEN in spec.model.secretRef"
            raise Failure(
                Reason.MODEL_NOT_FOUND, f"{place}: no such {self._kind} on {self.endpoint}{private}."
            ) from error
        except HFValidationError as error:
            raise Failure(Reason.SOURCE_INVALID, f"{place}: {error}") from error
        except HfHubHTTPError as error:
            http.raise_for(error.response, place)
            raise Transient(f"{place}: {error}") from error
        except Failure:
            raise
        except (OSError, ValueError, KeyError, TypeError, HTTPError) as error:
            # An answer that is no JSON, or not the JSON of a hub, is a proxy's or a broken mirror's: it may pass.
            raise Transient(f"{self.endpoint}: {type(error).__name__}: {error}") from error


def _remote(entry: RepoFile) -> RemoteFile:
    if entry.lfs:
        digest = Expected("sha256", entry.lfs.sha256)
        return RemoteFile(entry.path, int(entry.lfs.size), f"sha256:{entry.lfs.sha256}", digest)
    return RemoteFile(entry.path, int(entry.size), f"git:{entry.blob_id}", Expected("git-sha1", entry.blob_id))
