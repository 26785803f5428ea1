"""The engine's routes for adapters, as vLLM has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import httpx

Json = dict[str, Any]
# Loading a large adapter and the first request with it take a while on a busy engine.
TIMEOUT = httpx.Timeout(300, connect=10)


class Refused(Exception):
    """The engine said no, in these words."""


class Engine:
    """One running engine.

    Every method raises `Refused` for an answer that is not good, and `httpx.TransportError` when there is none.
    """

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def adapters(self) -> dict[str, str]:
        """Directories of what is loaded, by name."""
        listed = self._answer(self._client.get("/v1/models")).json()["data"]
        return {str(entry["id"]): str(entry["root"]) for entry in listed if entry.get("parent")}

    def load(self, name: str, place: Path, *, again: bool = False) -> None:
        """Load the adapter at `place` as `name`; `again`: in the place of the one that has the name."""
        body = {"lora_name": name, "lora_path": str(place), **({"load_inplace": True} if again else {})}
        self._answer(self._client.post("/v1/load_lora_adapter", json=body))

    def unload(self, name: str) -> None:
        """Forget the adapter of this name."""
        self._answer(self._client.post("/v1/unload_lora_adapter", json={"lora_name": name}))

    def log_probabilities(self, model: str, ids: tuple[int, ...], start: int) -> tuple[float, ...]:
        """Natural logarithms of the probability of each token from `start` on, given those before it."""
        body = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": 0, "prompt_logprobs": 1}
        choice: Json = self._answer(self._client.post("/v1/completions", json=body)).json()["choices"][0]
        told = choice["prompt_logprobs"]
        return tuple(float(told[place][str(ids[place])]["logprob"]) for place in range(start, len(ids)))

    @staticmethod
    def _answer(response: httpx.Response) -> httpx.Response:
        if response.status_code == 200:
            return response
        try:
            error = response.json()
            text = (error.get("error") or error).get("message") or response.text
        except (ValueError, AttributeError):
            text = response.text
        raise Refused(" ".join(str(text).split())[:300] or f"HTTP {response.status_code}")
