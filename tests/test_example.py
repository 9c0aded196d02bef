"The shipped example: small, complete, and what today's code computes from the shipped weights."
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from videolights.config import ModelConfig, from_dict
from videolights.data.example import compared, example
from videolights.deploy.runtime import Runtime
from videolights.model.videolights import VideoLights
from videolights.spans import temporal_iou

sys.path.insert(0, str(ROOT / "exported"))
TRACED = [(video, query) for video in example().videos for query in video.queries if query.trace]


def as_item(video, query): return {"video": video.features, "vid": video.vid, **query._asdict()}


@pytest.mark.parametrize("video, query", TRACED, ids=[query.query for _, query in TRACED])
def test_traces_are_what_the_weights_give(video, query):
    from rebuild import record
    found = example()
    model = VideoLights(from_dict(ModelConfig, found.config)).eval()
    model.load_state_dict({name: torch.tensor(x) for name, x in found.weights.items()})
    made = record(model, as_item(video, query), found.clip_seconds)
    assert made.keys() == query.trace.keys()
    for name, array in made.items(): np.testing.assert_allclose(array, query.trace[name], atol=5e-4, rtol=5e-4, err_msg=name)


def test_example_is_of_the_shipped_bundle_and_small():
    runtime = Runtime.load(ROOT / "exported/toyworld", providers="cpu", threads=1)
    for video, query in TRACED:
        spans = runtime.trace(video.features, query.text).spans
        np.testing.assert_allclose(spans, query.trace["decoder.spans"][-1], atol=2e-3)
    folder = ROOT / "videolights/data/example"
    assert sum(p.stat().st_size for p in folder.iterdir()) < 6e6
    with pytest.raises(ValueError, match="read-only"): TRACED[0][1].trace["saliency"][0] = 0


@pytest.mark.parametrize("name", ["laboratory", "charades_clip"])
def test_compared_queries_are_few_and_whole(name):
    found, folder = compared(name), ROOT / "videolights/data/example"
    assert 5 <= len(found) <= 12
    assert (folder / f"{name}.npz").stat().st_size < 1e6
    for row in found:
        assert next(iter(row.answers)) == "VideoLights"
        assert "refinement" not in row.answers["Moment-DETR"].maps          # a stage that a model lacks is not there
        for answer in row.answers.values():
            assert len(answer.saliency) == len(row.saliency)
            assert (np.diff(answer.windows[:, 2]) <= 0).all()
        assert row.iou == pytest.approx(temporal_iou(np.array(row.windows), row.answers["VideoLights"].windows[0, :2]).max(), abs=1e-3)
