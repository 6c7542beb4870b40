"""Models of torch: modules in TorchModel, and skorch nets as they are.

Only modules in this folder import torch.
"""

from importlib.util import find_spec

if find_spec("torch") is None:
    raise ImportError(
        "Models of torch need torch, which is not installed. Install it with: "
        "pip install 'skinfluence[torch]'"
    )

from skinfluence.models.torch import _head as _head
from skinfluence.models.torch._dataset import DatasetInputs, read_dataset
from skinfluence.models.torch._model import TorchModel
from skinfluence.models.torch._rows import ModuleRows

if find_spec("skorch") is not None:
    from skinfluence.models.torch import _skorch as _skorch

__all__ = ["DatasetInputs", "ModuleRows", "TorchModel", "read_dataset"]
