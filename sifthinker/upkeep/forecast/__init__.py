"""What a run will take, before anything runs: hours, GPU memory, disk and API calls of each stage.

`workload` says what there is to do, from the configuration and what the store has already. `calibration` has what was measured
on this machine, and `measure` measures it (`sif plan --calibrate`). `table` puts the two together.
"""

from sifthinker.upkeep.forecast.calibration import Calibration, device, latest, save
from sifthinker.upkeep.forecast.table import Line, forecast
from sifthinker.upkeep.forecast.workload import Workload, workload

__all__ = ["Calibration", "Line", "Workload", "device", "forecast", "latest", "save", "workload"]
