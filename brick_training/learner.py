"""What learns of a model and how its weights are updated: by an optimizer on themselves, or on fp32 masters of them."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from brick_training.settings import LoopSettings


class Learner:
    """A model whose trainable parameters an optimizer updates."""

    def __init__(self, model: nn.Module, settings: LoopSettings) -> None:
        self.model = model
        self.optimizer = make_optimizer(self._updated(), settings)

    def _updated(self) -> list[nn.Parameter]:
        """The tensors that the optimizer changes."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def prepare(self, accelerator: Accelerator) -> nn.Module:
        """The model as it is spread over processes and devices."""
        wrapped, self.optimizer = accelerator.prepare(self.model, self.optimizer)
        assert isinstance(wrapped, nn.Module)
        return wrapped

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def clip(self, accelerator: Accelerator, length: float) -> Tensor:
        """Shorten the gradient to `length`. Returns how long it was."""
        norm: Tensor = accelerator.clip_grad_norm_(self.model.parameters(), length)
        return norm

    def step(self) -> None:
        """Update on the gradient, and forget it."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def weights(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of the model."""
        return dict(self.model.state_dict())

    def load(self, weights: dict[str, Tensor], optimizer: dict[str, Any]) -> None:
        """Go to where a checkpoint was. Raises RuntimeError or ValueError where it is of a model of another shape."""
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(optimizer)


class MasterLearner(Learner):
    """A model that computes in its own type while fp32 masters of what learns are updated; the masters alone are kept.

    That is what autocast does, without its casts of every activation, and what is evaluated is what will run.
    """

    def __init__(self, model: nn.Module, settings: LoopSettings) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.copies = [p for _, p in named]
        self.masters = [nn.Parameter(p.detach().float().clone()) for p in self.copies]
        super().__init__(model, settings)

    def _updated(self) -> list[nn.Parameter]:
        return self.masters

    def clip(self, accelerator: Accelerator, length: float) -> Tensor:
        for master, copy in zip(self.masters, self.copies, strict=True):
            master.grad = copy.grad.float() if copy.grad is not None else None
            copy.grad = None
        return nn.utils.clip_grad_norm_(self.masters, length)

    def step(self) -> None:
        super().step()
        give_weights(self.model, self.weights())

    def weights(self) -> dict[str, Tensor]:
        return {name: master.detach() for name, master in zip(self.names, self.masters, strict=True)}

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor], optimizer: dict[str, Any]) -> None:
        if sorted(weights) != sorted(self.names):
            raise ValueError("other layers")
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(weights[name])
        self.optimizer.load_state_dict(optimizer)
        give_weights(self.model, self.weights())


def make_learner(model: nn.Module, settings: LoopSettings) -> Learner:
    """A learner as the settings want it."""
    return MasterLearner(model, settings) if settings.masters else Learner(model, settings)


@torch.no_grad()
def give_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy a master learner's weights into the model's parameters, in their own type."""
    parameters = dict(model.named_parameters())
    for name, weight in weights.items():
        parameters[name].copy_(weight)


def make_optimizer(parameters: list[nn.Parameter], settings: LoopSettings) -> torch.optim.Optimizer:
    """Weight decay goes on matrices and kernels only, not on norms, biases and scales."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas)
