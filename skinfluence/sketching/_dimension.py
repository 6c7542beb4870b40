"""The size that a sketch needs."""

import numpy as np

# Constants of ``influence_min_dim``, calibrated by benchmarks/sketch_calibration.py.
MIN_DIM_SLOPE = 0.9
MIN_DIM_OFFSET = 0.9


def effective_dimension(eigenvalues, damping):
    r"""Number of directions that the data, not the ridge, decide.

    .. math:: d_\lambda(F) = \operatorname{tr} F (F + \lambda I)^{-1}
              = \sum_i \frac{\mu_i}{\mu_i + \lambda}

    Parameters
    ----------
    eigenvalues : array-like of shape (n_eigenvalues,)
        Eigenvalues of the curvature F. Negative eigenvalues, and eigenvalues below the rounding
        of the largest, count as 0.
    damping : float or array-like of float
        The ridge :math:`\lambda \ge 0`, or several; at 0 the result is the rank.

    Returns
    -------
    float or ndarray of the shape of ``damping``
        At most the number of eigenvalues.

    Raises
    ------
    ValueError
        If ``damping`` is negative.

    Examples
    --------
    >>> from skinfluence.sketching import effective_dimension
    >>> effective_dimension([3.0, 1.0, 0.0], damping=1.0)
    1.25
    >>> effective_dimension([3.0, 1.0, 0.0], damping=0.0)
    2.0
    """
    ridge = np.asarray(damping, dtype=np.float64)
    if (ridge < 0).any():
        raise ValueError(f"damping must be at least 0. Got {damping!r} instead.")
    values = np.asarray(eigenvalues, dtype=np.float64)
    values = values[values > len(values) * np.finfo(np.float64).eps * values.max(initial=0)]
    dimension = (values / (values + ridge[..., None])).sum(axis=-1)
    return dimension if dimension.ndim else float(dimension)


def influence_min_dim(effective_dimension, *, eps=0.25, delta=0.05):
    r"""Size from which a random sketch answers all influence queries within ``eps``.

    With :math:`m \ge C \varepsilon^{-2} (d_\lambda + \log(1/\delta))` rows the sketched
    influence :math:`\tilde B` obeys, with probability :math:`1 - \delta` and for all
    gradients in the range of the curvature at once [1]_,

    .. math:: |\tilde B(g, g') - B(g, g')|
              \le \varepsilon \sqrt{\varphi_0(g) \varphi_0(g')},
              \qquad \varphi_0(g) = g' F^{+} g.

    The constant C is measured, over spectra that decay like a power and exponentially.
    The bound is relative to the influence without a ridge: where the spectrum is flat,
    the scores may have a larger relative error.

    Parameters
    ----------
    effective_dimension : float or array-like of float
        :math:`d_\lambda`, see :func:`effective_dimension`.
    eps : float, default=0.25
        Largest uniform error, in (0, 1).
    delta : float, default=0.05
        Share of seeds that may exceed ``eps``, in (0, 1).

    Returns
    -------
    int or ndarray of int
        Rows of the sketch.

    Raises
    ------
    ValueError
        If ``eps`` or ``delta`` is not in (0, 1), or the dimension is negative.

    References
    ----------
    .. [1] Hu, Hu, Ma, Zhao, "A Unified Theory of Random Projection for Influence
       Functions", arXiv:2602.10449.

    Examples
    --------
    >>> from skinfluence.sketching import influence_min_dim
    >>> influence_min_dim(100, eps=0.5) < influence_min_dim(100, eps=0.25)
    True
    """
    for name, value in (("eps", eps), ("delta", delta)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie in (0, 1). Got {value!r} instead.")
    dimension = np.asarray(effective_dimension, dtype=np.float64)
    if (dimension < 0).any():
        raise ValueError(
            f"effective_dimension must be at least 0. Got {effective_dimension!r} instead."
        )
    size = MIN_DIM_SLOPE * dimension + MIN_DIM_OFFSET * np.log(1 / delta)
    size = np.ceil(size / eps**2).astype(np.int64)
    return size if size.ndim else int(size)
