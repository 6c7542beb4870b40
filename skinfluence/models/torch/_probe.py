"""Rows of a network compared with autograd, before they are used."""

import copy

import numpy as np
import torch

from skinfluence._utils.batching import batches, fits_in_memory
from skinfluence._utils.warnings import warn_user
from skinfluence.models.torch._layers import NO_SAMPLES
from skinfluence.models.torch._network import LOCK, to_array
from skinfluence.models.torch._tape import Tape, pulled_back

# Samples, drawn from all training rows, whose gradients are compared one by one: at most so many.
PROBE_SAMPLES = 8

# Largest error of gradients, relative to the largest gradient, by the lowest precision on the way.
TOLERANCES = {
    torch.float64: 5e-11,
    torch.float32: 2e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}

# What a layer's calls raise where their shapes do not fit the samples.
MISFIT = (RuntimeError, ValueError, IndexError)


def probe(network, features):
    """Find factors that give the module's gradients, by comparison with autograd.

    On some samples, drawn from all training rows, every row is compared with a loop; on all
    training rows, a random combination of the rows of each chunk with its gradient. Layers whose
    factors fail (a weight that is used elsewhere too, samples that come in another order) become
    dense parameters; parameters that torch.func cannot follow are left to the loop.

    Parameters
    ----------
    network : Network
        The network.
    features : array
        Training rows.

    Returns
    -------
    network : Network
        The same network with the layers whose factors are right.
    outputs : ndarray of shape (n_samples, n_outputs) or None
        Outputs of the training rows, None where they do not fit into the working memory.

    Raises
    ------
    ValueError
        If outputs are not finite, or depend on the other samples in the batch.
    """
    network, generator = copy.copy(network), np.random.default_rng(0)
    # Two gradients of each sample, three times, must fit into the working memory.
    n_probed = max(2, batches(PROBE_SAMPLES, 6 * 8 * network.n_columns)[0].stop)
    some = np.sort(generator.permutation(features.shape[0])[:n_probed])
    x = network.inputs(features[some])
    with LOCK:
        network.precision = _lowest_precision(network, x)
        k = _checked_outputs(network, x)
        vectors = network.tensor(generator.standard_normal((len(x), 2, k)))
        _check_depends(network, features, some)
        expected = network.by_loop(list(network.selected), x, vectors)
        _keep_right_layers(network, x, vectors, expected)
        network.measure(x, k)
        outputs = _combined(network, features, k)
        _keep_what_vmaps(network, x, vectors, expected)
    return network, outputs


def check_rows(network, features):
    """Check that the factors of a network give the gradients of further samples.

    Raises
    ------
    ValueError
        If they do not.
    """
    for samples in network.factor_chunks(features.shape[0], 1):
        with LOCK:
            wrong, _ = _wrong_layers(network, features[samples])
        if wrong:
            raise ValueError(
                f"The layer {wrong[0].name!r} treats these samples in another way than the "
                "training rows: the products of its inputs and output gradients do not give "
                "their gradients. Does its forward sort the batch, or choose layers by the "
                "values? Fit with rows that show this too, or leave the layer out with "
                "parameters= or exclude=."
            )


def _checked_outputs(network, x):
    """Number of outputs, after a check that samples are treated one by one."""
    order = torch.arange(len(x) - 1, -1, -1, device=x.device)
    with torch.no_grad():
        together, reversed_ = network(x), network(x[order])
        repeated = network(x[:1].repeat(len(x), *[1] * (x.ndim - 1)))
    if not torch.isfinite(together).all():
        raise ValueError("The module's outputs are not finite on some training rows.")
    pairs = [(reversed_[order], together), (repeated[:1], together[:1])]
    if not all(_close(network, *pair) for pair in pairs):
        raise ValueError(
            "The outputs of a sample depend on the others in its batch, even in eval mode, "
            "so it has no gradient of its own. Use layers that treat samples one by one, "
            "such as BatchNorm with track_running_stats=True."
        )
    return together.shape[1]


def _check_depends(network, features, some):
    """Raise a ValueError if autograd finds no way from the outputs to the parameters."""
    chosen = list(network.selected.values())
    # Nearly always some samples are enough.
    for samples in [some, *network.chunks(features.shape[0])]:
        outputs = network(network.inputs(features[samples])).sum()
        if outputs.requires_grad:
            gradients = torch.autograd.grad(outputs, chosen, allow_unused=True)
            if any(gradient is not None for gradient in gradients):
                return
    raise ValueError(
        "The outputs of the module have no gradient by the parameters under study "
        f"({', '.join(network.selected)}). Choose others with parameters=, or give a module that "
        "autograd can follow: not under torch.no_grad, without detach, with checkpoints by "
        "use_reentrant=False, and no forward that was replaced by a function of another module."
    )


def _keep_right_layers(network, x, vectors, expected):
    """Leave each layer with a layout that gives its gradients, or dense."""
    right = _right_layers(network, network.layers, x, vectors, expected)
    wrong = [layer for layer in network.layers if layer.name not in right]
    for layer in wrong:
        # It may be computed once for all samples, such as an embedding of positions.
        alone = [layer.with_layout(NO_SAMPLES)]
        right |= _right_layers(network, alone, x, vectors, expected)
    network.layers = [right.get(layer.name, layer) for layer in network.layers]
    network.make_dense([layer for layer in wrong if layer.name not in right])


def _right_layers(network, layers, x, vectors, expected):
    """The layers with a layout that gives their gradients, by their name."""
    with torch.no_grad():
        plain = network(x)
    with Tape(layers, len(x)) as tape:
        try:
            outputs = network(x)
        except MISFIT:
            # The module computes with another shape than the tape gives.
            return {}
    if not (tape.outputs() and _same(network, outputs.detach(), plain)):
        return {}
    columns = tape.pull(outputs, vectors)
    found = {
        layer.name: _right_layout(network, tape, layer, columns, expected)
        for layer in layers
        if tape.was_called(layer)
    }
    return {name: layer for name, layer in found.items() if layer is not None}


def _right_layout(network, tape, layer, columns, expected):
    """The layer with the layout whose rows are the expected ones, or None."""
    names = [name for name in (layer.weight, layer.bias) if name]
    own = [
        expected[name].flatten(2)[:, :, torch.as_tensor(index, device=expected[name].device)]
        for name, index in zip(names, layer.positions, strict=False)
    ]
    wanted = torch.cat(own, dim=2)
    n = len(wanted)
    for candidate in layer.candidates:
        try:
            inputs = tape.inputs(candidate, n, wanted.dtype)
            residuals = tape.residuals(candidate, n, columns, wanted.dtype)
            gradients = candidate.gradients(inputs, residuals)
        except MISFIT:
            continue
        if _same(network, gradients, wanted):
            return candidate
    return None


def _combined(network, features, k):
    """Make layers dense for which a random combination of rows is not its gradient.

    Returns
    -------
    ndarray of shape (n_samples, k) or None
        The outputs of all samples on the way, if they fit into the working memory.
    """
    n_samples = features.shape[0]
    kept = np.empty((n_samples, k)) if fits_in_memory(8 * n_samples * k) else None
    for samples in network.factor_chunks(n_samples, 1):
        wrong, outputs = _wrong_layers(network, features[samples])
        network.make_dense(wrong)
        if kept is not None:
            kept[samples] = to_array(outputs)
    return kept


def _wrong_layers(network, features):
    """Layers for which a random combination of the rows of a chunk is not its gradient.

    Each sample has its own coefficient, so that rows of the wrong samples show.

    Returns
    -------
    list of Layer, and the outputs as a tensor
    """
    x = network.inputs(features)
    n = len(x)
    generator = np.random.default_rng(n)
    coefficients = network.tensor(generator.standard_normal(n))
    with Tape(network.layers, len(x)) as tape:
        outputs = network(x)
    if not network.layers:
        return [], outputs
    vectors = network.tensor(generator.standard_normal(outputs.shape))
    columns = tape.pull(outputs, vectors[:, None])
    names = sorted({n for layer in network.layers for n in (layer.weight, layer.bias) if n})
    chosen = [network.selected[name] for name in names]
    pulled = pulled_back(outputs, chosen, vectors * coefficients[:, None])
    gradients = {name: g.flatten() for name, g in zip(names, pulled, strict=True)}
    largest = max(g.abs().max() for g in pulled)
    wrong = [
        layer
        for layer in network.layers
        if not _combines(network, tape, layer, columns, coefficients, gradients, largest)
    ]
    return wrong, outputs


def _combines(network, tape, layer, columns, coefficients, gradients, largest):
    names = [name for name in (layer.weight, layer.bias) if name]
    own = [
        gradients[name][torch.as_tensor(index, device=coefficients.device)]
        for name, index in zip(names, layer.positions, strict=False)
    ]
    wanted, n = torch.cat(own), len(coefficients)
    if not tape.was_called(layer):
        return False
    try:
        inputs = tape.inputs(layer, n, network.dtype)
        residual = tape.residuals(layer, n, columns, network.dtype)[:, 0]
        found = layer.total(inputs, residual * coefficients[:, None, None])
    except MISFIT:
        return False
    return _close(network, found, wanted, 1e-3 * largest)


def _keep_what_vmaps(network, x, vectors, expected):
    others = network.others
    try:
        got = network.by_vmap(others, x, vectors) if others else {}
    except RuntimeError:
        got = {}
    network.one_by_one = [
        name
        for name in others
        if name not in got or not _close(network, got[name], expected[name])
    ]
    if network.one_by_one:
        warn_user(
            f"torch.func cannot follow {', '.join(network.one_by_one)}: their gradients are "
            "taken one sample at a time, which is slow. Leave them out with parameters=.",
            UserWarning,
        )


def _lowest_precision(network, x):
    """Type of lowest precision among the outputs of the layers and of the module."""
    with Tape(network.layers, len(x)) as tape:
        outputs = [network(x), *tape.outputs()]
    return max((output.dtype for output in outputs), key=TOLERANCES.get)


def _close(network, left, right, floor=0.0):
    """Whether tensors agree up to rounding, relative to the largest number or a floor."""
    size = max(float(right.abs().max()), float(floor), torch.finfo(right.dtype).tiny)
    return bool((left - right).abs().max() <= TOLERANCES[network.precision] * size)


def _same(network, left, right):
    """Whether tensors have one shape, and agree up to rounding."""
    return left.shape == right.shape and _close(network, left, right)
