"""What the networks of a process take, in one unit: a pass of the fastest of them, or 5 us.

One unit for all of them gives one admission budget. A first guess follows from the operations of a
pass; what is measured while serving replaces it.
"""

from threading import Lock
from weakref import WeakSet

from app.inference.backlog import Pace
from model.engines.protocol import Engine
from model.engines.relu_mlp import ReluMlpEngine
from model.layered import LayeredNetwork, pass_operations
from model.network import MLP

# The fastest network's preparing an image and summarising its passes, and its deterministic answer,
# take as long as this many of its passes.
IMAGE_COST = 32
_DETERMINISTIC_COST = 20
# Next to others, a network whose passes are shorter does not make the unit smaller, as most of what
# its requests cost is then something else.
_MOST_PASSES_PER_SECOND = 200_000.0
# Of a multiplication, before anything is measured: by the compiled engine, and by torch's.
_COMPILED_SECONDS, _TORCH_SECONDS = 3e-11, 1e-10
# Comparing takes some microseconds.
_MEASUREMENTS = 16
# A pace is the mean of this much computing of its network.
_MEMORY_SECONDS = 0.1


class Unit:
    """The paces of a process's networks, which make the unit of all costs.

    Attributes:
        is_shared: whether there are several networks, so that their paces matter.
    """

    def __init__(self) -> None:
        self._costs: WeakSet[NetworkCost] = WeakSet()
        self._lock = Lock()  # networks are loaded and warmed up in other threads
        self._measurements = 0
        self.is_shared = False

    def add(self, cost: "NetworkCost") -> None:
        """Takes a network into the comparison, for as long as it is used."""
        with self._lock:
            self._costs.add(cost)
            self.is_shared = len(self._costs) > 1
        self._compare()

    def note_measurement(self) -> None:
        """Compares the paces again after some measurements of any of them."""
        self._measurements += 1
        if self._measurements % _MEASUREMENTS == 0:
            self._compare()

    def _compare(self) -> None:
        with self._lock:
            costs = list(self._costs)
        fastest = max(cost.passes_per_second for cost in costs)
        if self.is_shared:
            fastest = min(fastest, _MOST_PASSES_PER_SECOND)
        for cost in costs:
            cost.set(max(1, round(fastest / cost.passes_per_second)))


class NetworkCost:
    """What one network takes.

    Attributes:
        per_pass: units of a pass.
        per_image: units of what all passes of an image share, and of summarising them.
        deterministic: units of an answer without dropout.
    """

    def __init__(self, network: MLP | LayeredNetwork, engine: Engine, unit: Unit) -> None:
        before, after = pass_operations(network)
        each = _COMPILED_SECONDS if isinstance(engine, ReluMlpEngine) else _TORCH_SECONDS
        # A pass that multiplies nothing takes a little, too.
        self._before = before / max(after, 1)
        self._pace = Pace(1 / (each * max(after, 10_000)), _MEMORY_SECONDS)
        self.set(1)
        self._unit = unit
        unit.add(self)

    @property
    def passes_per_second(self) -> float:
        return self._pace.per_second

    def set(self, per_pass: int) -> None:
        """Sets what a pass costs, and what follows from it."""
        self.per_pass = per_pass
        self.per_image = max(IMAGE_COST, round(self._before * per_pass))
        self.deterministic = max(_DETERMINISTIC_COST, round((self._before + 1) * per_pass))

    def measure(self, passes: int, seconds: float) -> None:
        """Takes into the pace a number of passes and their time, if there is another network."""
        if self._unit.is_shared:
            self._pace.measure(passes, seconds)
            self._unit.note_measurement()
