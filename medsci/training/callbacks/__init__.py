"""What happens around the steps of a run: checkpoints, logs, pictures, progress, stopping early."""

__all__ = [
    "Checkpoints",
    "MetricsLog",
    "Progress",
    "Samples",
    "StopCleanly",
    "TensorBoard",
    "Validation",
    "read_log",
]

from medsci.training.callbacks.checkpoints import Checkpoints
from medsci.training.callbacks.log import MetricsLog, read_log
from medsci.training.callbacks.progress import Progress
from medsci.training.callbacks.samples import Samples
from medsci.training.callbacks.stop import StopCleanly
from medsci.training.callbacks.tensorboard import TensorBoard
from medsci.training.callbacks.validation import Validation
