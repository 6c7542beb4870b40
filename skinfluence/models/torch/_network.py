"""A copy of a module in eval mode, and its gradient rows."""

import copy
import threading
from fnmatch import fnmatch

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils import gen_batches
from torch import nn
from torch.func import functional_call, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from skinfluence._utils.warnings import warn_user
from skinfluence.models.torch._layers import Layer, Tape, is_factored, pulled_back
from skinfluence.rows import DenseRows

# The hooks of a tape record calls of the module from all threads, so only one may call it.
LOCK = threading.RLock()

# Samples that pass through the module at once.
CHUNK = 256

# Samples on which rows are compared with a loop of autograd before they are used.
PROBE_SAMPLES = 3


class Network:
    """A module as a function of the parameters under study.

    The module itself is never changed: a copy in eval mode stays on its device and in its dtype.

    Parameters
    ----------
    module : Module
        A trained module.
    features : array
        Training rows, which tell whether the module reads tokens.
    parameters : str or list of str, default=None
        Patterns of parameter names, as in file names; by default all parameters that
        require a gradient.
    transform : callable, default=None
        Applied to the module's outputs.
    """

    def __init__(self, module, features, parameters=None, transform=None):
        self.module = copy.deepcopy(module).eval()
        # A module that reads tokens beside other numbers casts its tokens itself.
        embeds = any(isinstance(m, nn.Embedding) for m in self.module.modules())
        self.reads_tokens = embeds and np.array_equal(features, np.round(features))
        self.transform = transform
        self._choose(parameters)
        self.layers, self.others = _split(self.module, self.selected)
        self.one_by_one = []

    def _choose(self, patterns):
        named = dict(self.module.named_parameters())
        _check_finite(named)
        if patterns is None:
            chosen = [name for name, value in named.items() if value.requires_grad]
        else:
            patterns = [patterns] if isinstance(patterns, str) else patterns
            chosen = [n for n in named if any(fnmatch(n, pattern) for pattern in patterns)]
        if not chosen:
            raise ValueError(
                f"parameters={patterns!r} selects no parameter of this "
                f"{type(self.module).__name__}. Expected a pattern that matches some of: "
                f"{', '.join(named) or 'none (the module has no parameters)'}."
            )
        for name, value in named.items():
            value.requires_grad_(name in chosen)
        self.selected = {name: named[name] for name in chosen}

    @property
    def dtype(self):
        """Type of the parameters."""
        return next(iter(self.selected.values())).dtype

    @property
    def device(self):
        """Device of the module."""
        return next(iter(self.selected.values())).device

    def tensor(self, array, dtype=None):
        """An array on the module's device, in its dtype by default."""
        array = array.toarray() if issparse(array) else np.ascontiguousarray(array)
        # Not every device has float64, so the type changes before the device.
        return torch.as_tensor(array).to(dtype or self.dtype).to(self.device)

    def inputs(self, features):
        """Features as the module reads them, tokens or numbers in its dtype."""
        return self.tensor(features, torch.long if self.reads_tokens else None)

    def __call__(self, x, parameters=None):
        # The fused kernels of attention have neither second derivatives nor rules for vmap.
        with sdpa_kernel(SDPBackend.MATH):
            outputs = functional_call(self.module, parameters or {}, (x,))
        outputs = outputs if self.transform is None else self.transform(outputs)
        return _two_dimensional(outputs)

    def outputs(self, features):
        """Raw outputs (n, k) in float64."""
        with LOCK, torch.no_grad():
            found = [to_array(self(self.inputs(part))) for part in in_chunks(features)]
        return np.concatenate(found).astype(np.float64)

    def n_outputs(self, features):
        """Number of raw outputs, counted on a few samples."""
        return self.outputs(features[:PROBE_SAMPLES]).shape[1]

    # Rows.

    def rows(self, features, vectors):
        """Blocks of rows ``J_i' v_ij`` for vectors (n, s, k), in the order of `names`."""
        chunks = [
            [tuple(map(to_array, factors)) for factors in self._chunk_factors(*chunk)]
            for chunk in zip(in_chunks(features), in_chunks(vectors), strict=True)
        ]
        blocks = []
        for i, parts in enumerate(zip(*chunks, strict=True)):
            arrays = [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
            blocks.append(self._block(i, *arrays))
        return blocks

    def _block(self, i, *arrays):
        if i < len(self.layers):
            return self.layers[i].rows(*arrays)
        (gradients,) = arrays
        n_samples, s, size = gradients.shape
        return DenseRows(gradients.reshape(n_samples * s, size), s)

    def gradients(self, features, vectors):
        """The same rows as one tensor (n * s, n_columns) on the device."""
        chunks = zip(in_chunks(features), in_chunks(vectors), strict=True)
        return torch.cat([self._chunk_gradients(*chunk) for chunk in chunks])

    def _chunk_gradients(self, features, vectors):
        factors = self._chunk_factors(features, vectors)
        n_layers = len(self.layers)
        parts = [
            layer.gradients(*pair)
            for layer, pair in zip(self.layers, factors[:n_layers], strict=True)
        ]
        parts += [gradients for (gradients,) in factors[n_layers:]]
        return torch.cat(parts, dim=2).flatten(0, 1).detach()

    def _chunk_factors(self, features, vectors):
        """Tensors: inputs and residuals of the layers, then gradients of the others."""
        x, vectors = self.inputs(features), self.tensor(vectors)
        with LOCK:
            factors = self._layer_factors(x, vectors) if self.layers else []
            return factors + self._dense_gradients(x, vectors)

    def _layer_factors(self, x, vectors):
        with Tape(self.layers) as tape:
            outputs = self(x)
        residuals = tape.residuals(outputs, vectors)
        inputs = [torch.cat([u for u, _ in calls], dim=1) for calls in tape.calls]
        return list(zip(inputs, residuals, strict=True))

    def _dense_gradients(self, x, vectors):
        fast = [name for name in self.others if name not in self.one_by_one]
        gradients = self._by_vmap(fast, x, vectors) if fast else {}
        if self.one_by_one:
            gradients |= self.by_loop(self.one_by_one, x, vectors)
        return [(gradients[name].flatten(2),) for name in self.others]

    def _by_vmap(self, names, x, vectors):
        """Gradients (n, s, *shape) of parameters by torch.func."""
        chosen = {name: self.selected[name].detach() for name in names}

        def of_sample(sample, cotangents):
            def forward(parameters):
                return self(sample[None], parameters)[0]

            _, pull = vjp(forward, chosen)
            return vmap(lambda v: pull(v)[0])(cotangents)

        return vmap(of_sample)(x, vectors)

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
    def names(self):
        """Names of the blocks."""
        return [layer.name for layer in self.layers] + self.others

    @property
    def n_columns(self):
        """Number of parameters under study."""
        return sum(value.numel() for value in self.selected.values())

    @property
    def order(self):
        """Coordinate of each selected parameter, in the module's own order."""
        place, start = {}, 0
        for layer in self.layers:
            weight, bias = layer.coordinates
            place[layer.weight] = start + weight
            place[layer.bias] = start + bias
            start += len(weight) + len(bias)
        for name in self.others:
            place[name] = start + np.arange(self.selected[name].numel())
            start += len(place[name])
        return np.concatenate([place[name] for name in self.selected])

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

    # Checks.

    def probe(self, features):
        """Compare all rows with a loop of autograd on a few samples.

        Layers whose factors do not give their gradient (a weight that is used elsewhere too,
        or on transposed positions) become dense parameters; parameters that torch.func cannot
        follow are left to the loop.

        Raises
        ------
        ValueError
            If outputs are not finite, or depend on the other samples in the batch.
        """
        x = self.inputs(features[:PROBE_SAMPLES])
        self._check_outputs(x)
        generator = np.random.default_rng(0)
        k = self(x[:1]).shape[1]
        vectors = self.tensor(generator.standard_normal((len(x), 2, k)))
        expected = self.by_loop(list(self.selected), x, vectors)
        self._keep_right_layers(x, vectors, expected)
        self._keep_what_vmaps(x, vectors, expected)
        factors = self._chunk_factors(features[:1], np.ones((1, 1, k)))
        self.sample_bytes = sum(tensor.nbytes for pair in factors for tensor in pair)
        return self

    def _check_outputs(self, x):
        with torch.no_grad():
            together = self(x)
            other = self(x[[0] * len(x)])
        if not torch.isfinite(together).all():
            raise ValueError("The module's outputs are not finite on the first training rows.")
        if not _close(together[0], other[0]):
            raise ValueError(
                "The outputs of a sample depend on the others in its batch, even in eval mode, "
                "so it has no gradient of its own. Use layers that treat samples one by one, "
                "such as BatchNorm with track_running_stats=True."
            )

    def _keep_right_layers(self, x, vectors, expected):
        with Tape(self.layers) as tape, torch.no_grad():
            self(x)
        called = [bool(calls) for calls in tape.calls]
        dropped = [layer for layer, was in zip(self.layers, called, strict=True) if not was]
        self._make_dense(dropped)
        if not self.layers:
            return
        factors = self._layer_factors(x, vectors)
        wrong = []
        for layer, pair in zip(self.layers, factors, strict=True):
            if len(pair[0]) != len(x) or not _agree(layer.gradients(*pair), layer, expected):
                wrong.append(layer)
        self._make_dense(wrong)

    def _make_dense(self, layers):
        self.layers = [layer for layer in self.layers if layer not in layers]
        moved = {name for layer in layers for name in (layer.weight, layer.bias) if name}
        others = moved | set(self.others)
        self.others = [name for name in self.selected if name in others]

    def _keep_what_vmaps(self, x, vectors, expected):
        try:
            got = self._by_vmap(self.others, x, vectors) if self.others else {}
        except RuntimeError:
            got = {}
        self.one_by_one = [
            n for n in self.others if n not in got or not _close(got[n], expected[n])
        ]
        if self.one_by_one:
            warn_user(
                f"torch.func cannot follow {', '.join(self.one_by_one)}: their gradients are "
                "taken one sample at a time, which is slow. Leave them out with parameters=.",
                UserWarning,
            )


def _split(module, selected):
    """Layers whose rows have factors, and names of all other parameters."""
    names = {id(value): name for name, value in selected.items()}
    layers = []
    for name, layer in module.named_modules():
        if is_factored(layer) and id(layer.weight) in names:
            bias = getattr(layer, "bias", None)
            bias_name = names.get(id(bias)) if bias is not None else None
            layers.append(Layer(name or "module", layer, names[id(layer.weight)], bias_name))
    taken = [name for layer in layers for name in (layer.weight, layer.bias)]
    layers = [layer for layer in layers if taken.count(layer.weight) == 1]
    taken = {name for layer in layers for name in (layer.weight, layer.bias)}
    return layers, [name for name in selected if name not in taken]


def _agree(gradients, layer, expected):
    parts = [expected[name].flatten(2) for name in (layer.weight, layer.bias) if name]
    index = torch.as_tensor(np.concatenate(layer.coordinates), device=gradients.device)
    return _close(gradients[:, :, index], torch.cat(parts, dim=2))


def _close(left, right):
    scale = right.abs().max().clamp_min(torch.finfo(right.dtype).tiny)
    tolerance = 30 * torch.finfo(right.dtype).eps ** 0.75
    return bool((left - right).abs().max() <= tolerance * scale)


def _two_dimensional(outputs):
    if not isinstance(outputs, torch.Tensor):
        raise TypeError(
            f"The module must return one tensor of outputs. Got {type(outputs).__name__} "
            "instead; wrap it in a module that picks the outputs."
        )
    return outputs.reshape(len(outputs), -1)


def _check_finite(named):
    bad = [name for name, value in named.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"Parameters with NaN or infinite values: {', '.join(bad)}.")


def chunks_of(n_samples):
    """Slices of samples that pass through the module at once."""
    return list(gen_batches(n_samples, CHUNK)) if n_samples else []


def in_chunks(array):
    return [array[chunk] for chunk in chunks_of(array.shape[0])]


def to_array(tensor):
    return tensor.detach().cpu().numpy()
