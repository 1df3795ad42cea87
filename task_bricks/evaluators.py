"""What a skill's card may name to finish an answer that the skill began: the host writes, the evaluator computes."""

from collections.abc import Callable, Mapping
from typing import Literal

from mattoni.runtime import Finished
from task_bricks import arithmetic

EvaluatorName = Literal["arithmetic"]
EVALUATORS: Mapping[EvaluatorName, Callable[[str], Finished]] = {"arithmetic": arithmetic.finish}
