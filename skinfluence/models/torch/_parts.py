"""Linear parts of modules that multiply with their weights and call no layer.

Nothing tells the inputs of such a weight. In copies of these modules each part is called as a
layer, which keeps no parameter of its own: it looks up its share of a weight when it is called.
"""

from torch import nn
from torch.nn import functional as F


class Part(nn.Module):
    """A linear layer with some rows of a weight, and of a bias, of another module.

    Parameters
    ----------
    owner : Module
        Owner of the parameters.
    weight, bias : str
        Names of the weight and of the bias in their owner; the bias may be None there.
    outputs, bias_outputs : slice, default=slice(None, None, None)
        Rows of the weight, and numbers of the bias; all of them by default.
    """

    def __init__(self, owner, weight, bias, outputs=slice(None), bias_outputs=slice(None)):
        super().__init__()
        # Inside a tuple, the owner is no submodule of its own part.
        self.owner = (owner,)
        self.names = weight, bias
        self.outputs = outputs
        self.bias_outputs = bias_outputs

    @property
    def weight(self):
        """The parameter of which this part uses some rows."""
        return getattr(self.owner[0], self.names[0])

    @property
    def bias(self):
        """The parameter of which this part uses some numbers, or None."""
        return getattr(self.owner[0], self.names[1], None)

    def forward(self, x):
        """The linear map of x."""
        bias = None if self.bias is None else self.bias[self.bias_outputs]
        return F.linear(x, self.weight[self.outputs], bias)
