"""A disaster on a real node: model and adapter come back from an S3 server with Object Lock, equal to a digit."""

from __future__ import annotations

import pytest

from hack.demo.install import Platform
from hack.demo.restore import ADAPTER, NAME, Lesson

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.long
def test_a_deleted_namespace_comes_back_with_model_and_adapter(platform: Platform, gateway: str) -> None:
    before, after = Lesson(platform, gateway, "deleted-and-restored").run()
    assert before == after
    assert before.keys() == {NAME, ADAPTER}
    assert all(before.values())
    assert before[NAME] != before[ADAPTER]
