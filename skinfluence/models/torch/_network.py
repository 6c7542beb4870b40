"""A module as a function of the parameters under study, and its gradient rows."""

import copy
import threading

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils import gen_batches
from torch.func import functional_call, vmap

from skinfluence._utils.namespace import empty
from skinfluence.models.torch._inputs import reader_of
from skinfluence.models.torch._layers import layers_of
from skinfluence.models.torch._module import (
    HALF,
    chosen_parameters,
    differentiable_attention,
    working_copy,
)
from skinfluence.models.torch._tape import Tape, pulled_back
from skinfluence.rows import written_rows

# The hooks of a tape record calls of the module from all threads, and the switch of attention is
# one for all of torch, so only one thread may call a module.
LOCK = threading.RLock()

# Samples that pass through a module at once, unless told otherwise.
CHUNK = 256

# Fewer of them where their factors would take more bytes than these: memory of larger tensors is
# mapped anew for each of them, which takes longer than the computation.
FACTOR_BYTES = 2**24

# Types of devices whose rows become arrays: on a CPU, arrays are faster than tensors, and MPS has
# no double precision, in which curvatures are summed and factorised.
HOSTS = {"cpu", "mps"}


class Network:
    """A module as a function of the parameters under study.

    The module itself is never changed: a copy in eval mode stays on its device and in its dtype,
    or in single precision in place of half.

    Parameters
    ----------
    module : Module
        A trained module.
    features : array
        Training rows, which tell whether the module reads tokens.
    include, exclude : str or list of str, default=None
        Patterns of parameter names, as in file names; by default all parameters that
        require a gradient, and none of them excluded.
    transform : callable, default=None
        Picks the outputs from what the module returns.
    inputs : None, array-like, or tuple or dict of array-likes, default=None
        Example of what the module reads, see `reader_of`.
    chunk : int, default=256
        Samples that pass through the module at once.
    """

    def __init__(
        self,
        module,
        features,
        include=None,
        exclude=None,
        transform=None,
        inputs=None,
        chunk=CHUNK,
    ):
        self.module = working_copy(module)
        self.transform = transform
        self.reader = reader_of(inputs)
        self.chunk = chunk
        self._choose(chosen_parameters(self.module, include, exclude))
        self.reader.find_type(self, features)

    def _choose(self, names):
        named = dict(self.module.named_parameters())
        for name, value in named.items():
            value.requires_grad_(name in names)
        self.selected = {name: named[name] for name in names}
        self.layers = _known_layers(self.module, self.selected)
        self.one_by_one = []

    def restricted(self, names):
        """The same network with other parameters under study."""
        twin = copy.copy(self)
        twin.module = copy.deepcopy(self.module)
        twin._choose(names)
        return twin

    @property
    def dtype(self):
        """Type of the parameters."""
        return next(iter(self.selected.values())).dtype

    @property
    def device(self):
        """Device of the module."""
        return next(iter(self.selected.values())).device

    @property
    def keeps_rows(self):
        """Whether rows stay on the device, as tensors."""
        return self.device.type not in HOSTS

    def tensor(self, array, dtype=None):
        """An array on the module's device, in its dtype by default."""
        # Tensors share memory with arrays, and torch knows none that cannot be written to.
        array = array.toarray() if issparse(array) else np.require(array, requirements="CW")
        # Not every device has float64, so the type changes before the device.
        dtype = dtype or self.dtype
        dtype = torch.float32 if dtype == torch.float64 and self.device.type == "mps" else dtype
        return torch.as_tensor(array).to(dtype).to(self.device)

    def inputs(self, features):
        """Features as one tensor, from which the module's inputs are read."""
        return self.tensor(features, self.reader.tensor_type(features, self.dtype))

    def __call__(self, x):
        return self._forward(self.reader.unpack(x, self.dtype), len(x))

    def _forward(self, arguments, n_samples, parameters=None):
        """Outputs (n_samples, k) for positional and keyword arguments of the module."""
        with LOCK, differentiable_attention():
            if parameters is None:
                args, kwargs = arguments
                outputs = self.module(*args, **kwargs)
            else:
                outputs = functional_call(self.module, parameters, *arguments)
        outputs = outputs if self.transform is None else self.transform(outputs)
        return _two_dimensional(outputs, n_samples)

    def chunks(self, n_samples):
        """Slices of samples that pass through the module at once."""
        return list(gen_batches(n_samples, self.chunk)) if n_samples else []

    def in_chunks(self, *arrays):
        """Chunks of arrays side by side."""
        for samples in self.chunks(arrays[0].shape[0]):
            yield tuple(array[samples] for array in arrays)

    def outputs(self, features):
        """Raw outputs (n, k) in float64."""
        with LOCK, torch.no_grad():
            found = [to_array(self(self.inputs(part))) for (part,) in self.in_chunks(features)]
        return np.concatenate(found).astype(np.float64)

    def n_outputs(self, features):
        """Number of raw outputs, counted on two samples."""
        return self.outputs(features[:2]).shape[1]

    # Rows.

    def rows(self, features, vectors, *, weight=None, summed=False):
        """Blocks of rows ``w_i J_i' v_ij`` for vectors (n, s, k), in the order of `names`.

        They hold tensors where the device keeps rows, and arrays elsewhere.

        With ``summed``, rows of shared layers are sums over their positions where these have fewer
        numbers than the factors.
        """
        n, s = vectors.shape[:2]
        whole = None
        for samples in self.factor_chunks(n, s):
            part = weighted_vectors(vectors, weight, samples)
            found = self.factors(features[samples], part)
            found = self._summed(found) if summed else found
            kept = [tuple(map(self._kept, tensors)) for tensors in found]
            whole = _written(kept, samples, n, whole)
        return [self._block(i, *arrays) for i, arrays in enumerate(whole or [])]

    def _kept(self, tensor):
        return tensor.detach() if self.keeps_rows else to_array(tensor)

    def factor_chunks(self, n_samples, s):
        """Slices of samples whose factors are computed at once, s rows of each."""
        together = max(1, min(self.chunk, FACTOR_BYTES // self.row_bytes(s)))
        return list(gen_batches(n_samples, together)) if n_samples else []

    def row_bytes(self, s):
        """Bytes of the factors of one sample, s rows of it."""
        layers = [self.layer_bytes[layer.name] for layer in self.layers]
        others = [(0, self.selected[name].nbytes) for name in self.others]
        return sum(own + s * each for own, each in layers + others)

    def measure(self, x, n_outputs):
        """Learn how many bytes the factors of the layers take, from some samples."""
        factors = self._layer_factors(x[:1], self.tensor(np.ones((1, 1, n_outputs))))
        # Inputs are the same for all rows of a sample.
        self.layer_bytes = {
            layer.name: (inputs.nbytes, residual.nbytes)
            for layer, (inputs, residual) in zip(self.layers, factors, strict=True)
        }

    def _summed(self, factors):
        """The same rows with one tensor in place of factors that have more numbers."""
        pairs = zip(self.layers, factors, strict=False)
        blocks = [layer.summed(*pair) or pair for layer, pair in pairs]
        return blocks + factors[len(self.layers) :]

    def _block(self, i, *arrays):
        if len(arrays) == 2:
            return self.layers[i].rows(*arrays)
        (gradients,) = arrays
        n_samples, s, size = gradients.shape
        return written_rows(gradients.reshape(n_samples * s, size), s)

    def gradients(self, features, vectors):
        """The same rows as one tensor (n * s, n_columns) on the device."""
        return torch.cat([self._gradients(*part) for part in self.in_chunks(features, vectors)])

    def _gradients(self, features, vectors):
        factors = self.factors(features, vectors)
        n_layers = len(self.layers)
        parts = [
            layer.gradients(*pair)
            for layer, pair in zip(self.layers, factors[:n_layers], strict=True)
        ]
        parts += [gradients for (gradients,) in factors[n_layers:]]
        return torch.cat(parts, dim=2).flatten(0, 1).detach()

    def factors(self, features, vectors):
        """Tensors of one chunk: inputs and residuals of the layers, gradients of the others."""
        x, vectors = self.inputs(features), self.tensor(vectors)
        with LOCK:
            factors = self._layer_factors(x, vectors) if self.layers else []
            return factors + self._dense_gradients(x, vectors)

    def _layer_factors(self, x, vectors):
        n = len(x)
        with Tape(self.layers, n) as tape:
            outputs = self(x)
        columns = tape.pull(outputs, vectors)
        return [
            (tape.inputs(layer, n, self.dtype), tape.residuals(layer, n, columns, self.dtype))
            for layer in self.layers
        ]

    def _dense_gradients(self, x, vectors):
        fast = [name for name in self.others if name not in self.one_by_one]
        gradients = self.by_vmap(fast, x, vectors) if fast else {}
        if self.one_by_one:
            gradients |= self.by_loop(self.one_by_one, x, vectors)
        return [(gradients[name].flatten(2),) for name in self.others]

    def by_vmap(self, names, x, vectors):
        """Gradients (n, s, *shape) of parameters, of which every sample has its own copy."""
        # Not by torch.func.vjp, which would first import a compiler: that takes seconds.
        chosen = {
            name: value.detach().expand(len(x), *value.shape).requires_grad_()
            for name, value in self.selected.items()
            if name in names
        }

        def of_sample(parameters, arguments):
            args, kwargs = arguments
            named = {name: value[None] for name, value in kwargs.items()}
            batch = tuple(value[None] for value in args), named
            return self._forward(batch, 1, parameters)[0]

        # Reading may need the positions of the samples, which vmap hides.
        outputs = vmap(of_sample)(chosen, self.reader.unpack(x, self.dtype))
        pulled = [pulled_back(outputs, list(chosen.values()), v) for v in vectors.unbind(1)]
        columns = zip(*pulled, strict=True)
        return {name: torch.stack(c, dim=1) for name, c in zip(chosen, columns, strict=True)}

    def by_loop(self, names, x, vectors):
        """The same by a loop of autograd, slow but right for every layer."""
        chosen = [self.selected[name] for name in names]
        samples = []
        for sample, cotangents in zip(x, vectors, strict=True):
            output = self(sample[None])
            rows = [pulled_back(output, chosen, v[None]) for v in cotangents]
            samples.append([torch.stack(column) for column in zip(*rows, strict=True)])
        columns = zip(*samples, strict=True)
        return {name: torch.stack(c) for name, c in zip(names, columns, strict=True)}

    # Layout.

    @property
    def others(self):
        """Names of the parameters without factors."""
        taken = {name for layer in self.layers for name in (layer.weight, layer.bias)}
        return [name for name in self.selected if name not in taken]

    @property
    def names(self):
        """Names of the blocks."""
        return [layer.name for layer in self.layers] + self.others

    def describe_block(self, position):
        """Name of a block, and the shape of a parameter without factors."""
        name = self.names[position]
        if position < len(self.layers):
            return name
        return f"{name} of shape {tuple(self.selected[name].shape)}"

    @property
    def n_columns(self):
        """Number of parameters under study."""
        return sum(value.numel() for value in self.selected.values())

    @property
    def order(self):
        """Coordinate of each selected parameter, in the module's own order."""
        place = {name: np.arange(value.numel()) for name, value in self.selected.items()}
        start = 0
        for layer in self.layers:
            names = [name for name in (layer.weight, layer.bias) if name]
            for name, index in zip(names, layer.positions, strict=False):
                place[name][index] = start + np.arange(len(index))
                start += len(index)
        for name in self.others:
            place[name] += start
            start += len(place[name])
        return np.concatenate(list(place.values()))

    @property
    def theta(self):
        """Selected parameters in the module's own order, in float64."""
        flat = [to_array(value).ravel() for value in self.selected.values()]
        return np.concatenate(flat).astype(np.float64)

    def in_double(self):
        """The same network in float64, or itself where the device has no float64."""
        if self.dtype == torch.float64 or self.device.type == "mps":
            return self
        twin = copy.copy(self)
        twin.module = copy.deepcopy(self.module).double()
        named = dict(twin.module.named_parameters())
        twin.selected = {name: named[name] for name in self.selected}
        return twin

    def make_dense(self, layers):
        """Leave these layers, and those that share a parameter with them, without factors."""
        moved = {name for layer in layers for name in (layer.weight, layer.bias) if name}
        self.layers = [layer for layer in self.layers if not moved & {layer.weight, layer.bias}]


def _known_layers(module, selected):
    """Layers of a module whose rows have factors."""
    names = {id(value): name for name, value in selected.items()}
    layers = []
    for name, child in module.named_modules():
        layers += layers_of(name, child, names)
    used = [(layer.weight, layer.outputs.start) for layer in layers]
    tied = {weight for weight, start in used if used.count((weight, start)) > 1}
    return [layer for layer in layers if layer.weight not in tied]


def weighted_vectors(vectors, weight, samples):
    """Vectors (n, s, k) of some samples, multiplied by their weights where there are any."""
    vectors = np.asarray(vectors[samples])
    return vectors if weight is None else vectors * weight[samples, None, None]


def _written(blocks, samples, n, whole):
    """Blocks of all n samples, with those of some of them in their places."""
    if samples == slice(0, n):
        return blocks
    if whole is None:
        whole = [[empty((n, *a.shape[1:]), a) for a in arrays] for arrays in blocks]
    for arrays, pieces in zip(whole, blocks, strict=True):
        for array, piece in zip(arrays, pieces, strict=True):
            array[samples] = piece
    return whole


def _two_dimensional(outputs, n_samples):
    if not isinstance(outputs, torch.Tensor):
        raise TypeError(
            f"The module must return one tensor of outputs. Got {type(outputs).__name__} "
            "instead; pick the outputs by a function, TorchModel(module, outputs=lambda out: "
            "out['logits'])."
        )
    if outputs.ndim == 0 or len(outputs) != n_samples:
        raise ValueError(
            f"The module must return one row of outputs for each sample, ({n_samples}, ...). Got "
            f"the shape {tuple(outputs.shape)} instead. If the module returns the mean of its "
            "own loss, let it return the loss of each sample, with loss='returned'."
        )
    return outputs.reshape(n_samples, -1)


def to_array(tensor):
    """The numbers of a tensor, half precision as single."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype in HALF else tensor).numpy()
