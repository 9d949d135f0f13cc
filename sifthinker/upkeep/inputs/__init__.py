"""What a configuration needs from elsewhere: where it is published, whether it is here, and fetching it (`sif data`)."""

from sifthinker.upkeep.inputs.states import State
from sifthinker.upkeep.inputs.wanted import Input, inputs, named

__all__ = ["Input", "State", "inputs", "named"]
