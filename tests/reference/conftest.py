"""A recording made on a simulated GPU stands in for one made on a real GPU, in a temporary folder."""

from pathlib import Path

import pytest

from profiler.device import device_called
from profiler.gpu.cards import GPUS
from profiler.reference import campaign
from profiler.reference.archive import Archive, read_recording
from profiler.reference.campaign import Campaign, Summary
from tests.support.rehearsed import CASES


@pytest.fixture(scope="session")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Archive, Summary, Campaign]:
    """Recorded on a simulated H100: two runs to their end, one out of memory, one impossible."""
    to = Campaign(device_called("H100"), tmp_path_factory.mktemp("rehearsal"), "small", minutes=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(campaign, "cases", lambda size: CASES)
        summary = campaign.record_suite(to)
    assert Path("results").resolve() not in summary.folder.parents
    return read_recording(to.results / f"simulated-{GPUS['H100-80GB'].name.lower()}"), summary, to
