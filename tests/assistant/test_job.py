"""A job can travel, and holds nothing that runs."""

import pytest
import torch

from assistant.host.job import Job
from assistant.host.prompt import Prompt
from assistant.host.sampling import Sampling
from mattoni.errors import MattoniError
from mattoni.injections import Gate, Keyed, LowRank, Prefix, Soft


def a_job() -> Job:
    shared = torch.randn(6, 8, dtype=torch.bfloat16)
    return Job(
        prompt=Prompt(((1, 2, 3), Soft("picture", shared[:4]), (4,), Soft("other", shared[2:]))),
        injections=(
            LowRank("skill", "d1", {"a.b": (torch.randn(2, 8), torch.randn(4, 2))}, {"a.b": 2.0}, weight=0.7),
            Prefix("cartridge", "d2", ((torch.randn(1, 3, 4), torch.randn(1, 3, 4)),) * 2),
            Gate("function", "d3", {1: torch.rand(16)}),
            Keyed("facts", "d4", 1, torch.randn(3, 16), torch.randn(3, 8), torch.rand(3)),
        ),
        sampling=Sampling(temperature=0.7, top_k=5, repetition_penalty=1.2, stop=("\n\n", "END"), max_tokens=9),
        seed=2**40,
        conversation="c1",
        said=(5, 6),
    )


def test_a_job_comes_back_from_its_bytes_as_it_was():
    job = a_job()
    back = Job.from_bytes(job.to_bytes())
    assert back.prompt.keys == job.prompt.keys
    assert (back.sampling, back.seed, back.conversation) == (job.sampling, job.seed, job.conversation)
    assert (back.said, back.forced) == ((5, 6), ())
    for ours, theirs in zip(job.prompt.pieces, back.prompt.pieces, strict=True):
        if isinstance(ours, Soft):
            assert torch.equal(ours.vectors, theirs.vectors) and ours.vectors.dtype == theirs.vectors.dtype
    skill, cartridge, function, facts = back.injections
    assert [(i.name, i.digest) for i in back.injections] == [(i.name, i.digest) for i in job.injections]
    assert (skill.weight, skill.scales) == (0.7, {"a.b": 2.0})
    assert all(torch.equal(x, y) for x, y in zip(skill.factors["a.b"], job.injections[0].factors["a.b"], strict=True))
    assert torch.equal(cartridge.layers[1][0], job.injections[1].layers[1][0])
    assert torch.equal(function.factors[1], job.injections[2].factors[1])
    sent = job.injections[3]
    assert facts.layer == sent.layer and torch.equal(facts.thresholds, sent.thresholds)
    assert torch.equal(facts.keys, sent.keys) and torch.equal(facts.residuals, sent.residuals)


@pytest.mark.parametrize("data", [b"", b"nonsense" * 20, a_job().to_bytes()[:-30]])
def test_other_bytes_are_refused_in_one_sentence(data):
    with pytest.raises(MattoniError, match="These bytes are no job"):
        Job.from_bytes(data)
