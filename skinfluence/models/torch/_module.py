"""The copy of a user's module that influence works with."""

import copy
from contextlib import contextmanager
from fnmatch import fnmatch

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from skinfluence.models.torch._attention import split_attention
from skinfluence.models.torch._bag import split_bags
from skinfluence.models.torch._recurrent import split_recurrent

HALF = (torch.float16, torch.bfloat16)


def working_copy(module):
    """A copy in eval mode, in single precision at least, where linear parts are layers.

    Parameters
    ----------
    module : Module
        The user's module, which is left alone.

    Returns
    -------
    Module

    Raises
    ------
    TypeError
        If the module is scripted, or on the meta device.
    """
    module = unwrapped(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            "The module is compiled by TorchScript, which keeps no layers to look into. Give the "
            "module that it was made from, or use torch.compile."
        )
    if any(value.is_meta for value in module.parameters()):
        raise TypeError(
            "The module is on the meta device, so its parameters have no values. Load them: "
            "module.to_empty(device='cpu'), then load_state_dict."
        )
    twin = _uncompiled(copy.deepcopy(module)).eval()
    if any(value.dtype in HALF for value in twin.parameters()):
        # Every half precision number is a single precision number too.
        twin = twin.float()
    return split_recurrent(split_bags(split_attention(twin)))


def unwrapped(module):
    """The module inside wrappers that compile it, or spread it over devices."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif hasattr(module, "_orig_mod"):
            # Graphs that were compiled before call no hooks.
            module = module._orig_mod
        else:
            return module


def _uncompiled(module):
    """A copied module with its compiled parts as they were: graphs call no hooks.

    A compiled ``forward`` would even run the module that was copied.
    """
    for child in list(module.modules()):
        for name, inner in list(child.named_children()):
            setattr(child, name, unwrapped(inner))
        if hasattr(vars(child).get("forward"), "_torchdynamo_orig_callable"):
            # What remains is the method of its class.
            del child.forward
    return module


def plain_name(name):
    """Name of a parameter without the wrappers that `working_copy` takes off."""
    return name.replace("_orig_mod.", "")


def chosen_parameters(module, include=None, exclude=None):
    """Names of the parameters under study, in the module's own order.

    Parameters
    ----------
    module : Module
        A module.
    include, exclude : str or list of str, default=None
        Patterns of names, as in file names; by default all parameters that require a gradient
        are included, and none is excluded.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If nothing is chosen, or a parameter is not finite.
    """
    named = dict(module.named_parameters())
    _check_finite(named)
    chosen = [
        name
        for name, value in named.items()
        if (value.requires_grad if include is None else _matches(name, include))
        and not (exclude is not None and _matches(name, exclude))
    ]
    if not chosen:
        without = "" if exclude is None else f" with exclude={exclude!r}"
        raise ValueError(
            f"parameters={include!r}{without} selects no parameter of this "
            f"{type(module).__name__}. Expected a pattern that matches some of: "
            f"{', '.join(named) or 'none (the module has no parameters)'}."
        )
    return chosen


def _matches(name, patterns):
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatch(name, pattern) for pattern in patterns)


def _check_finite(named):
    bad = [name for name, value in named.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"Parameters with NaN or infinite values: {', '.join(bad)}.")


@contextmanager
def differentiable_attention():
    """Leave out fused attention, which has neither second derivatives nor rules for vmap."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
