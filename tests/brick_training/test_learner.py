"""fp32 masters: what learns is updated in fp32, computes in its own type, and comes back from a checkpoint bit for bit."""

import torch
from accelerate import Accelerator
from torch import nn

from brick_training.learner import Learner, MasterLearner, make_learner
from brick_training.settings import LoopSettings, WarmupStableDecay

SETTINGS = LoopSettings(optimizer="adamw", learning_rate=1e-4, weight_decay=0.0, masters=True)


def half_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)).to(torch.bfloat16)
    model[0].requires_grad_(False)
    return model


def steps(learner: Learner, count: int) -> None:
    accelerator = Accelerator(cpu=True)
    for step in range(count):
        torch.manual_seed(step)
        learner.model(torch.randn(2, 4, dtype=torch.bfloat16)).square().sum().backward()
        learner.clip(accelerator, 1.0)
        learner.step()


def test_masters_take_steps_that_are_too_small_for_the_models_own_type():
    learner = make_learner(half_model(), SETTINGS)
    assert isinstance(learner, MasterLearner)
    before = {name: weight.clone() for name, weight in learner.weights().items()}
    frozen = learner.model[0].weight.clone()
    steps(learner, 3)
    assert sorted(before) == ["1.bias", "1.weight"]
    for name, weight in learner.weights().items():
        assert weight.dtype == torch.float32 and not torch.equal(weight, before[name])
        assert torch.equal(dict(learner.model.named_parameters())[name], weight.to(torch.bfloat16))
    assert torch.equal(frozen, learner.model[0].weight)


def test_a_master_learner_goes_on_bit_for_bit():
    whole, first, second = (MasterLearner(half_model(), SETTINGS) for _ in range(3))
    steps(whole, 2)
    steps(first, 2)
    second.load(first.weights(), first.optimizer.state_dict())
    for learner in (whole, second):
        steps(learner, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole.weights().values(), second.weights().values(), strict=True))


def test_a_plateau_does_not_depend_on_the_number_of_steps():
    schedule = WarmupStableDecay(warmup=2, decay=4)
    assert [schedule.factor(step, 10) for step in range(6)] == [schedule.factor(step, 20) for step in range(6)]
    assert schedule.may_change(6, 10, 20) and not schedule.may_change(7, 10, 20) and schedule.may_change(7, 10, 10)
