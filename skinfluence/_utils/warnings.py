"""Warnings that point at the user's own line."""

import inspect
import warnings
from pathlib import Path

import joblib
import sklearn

# Files of these packages are not the user's.
PACKAGES = tuple(
    str(Path(path).parent) for path in (sklearn.__file__, joblib.__file__, Path(__file__).parent)
)


def warn_user(message, category=None):
    """Warn at the innermost line outside this package, scikit-learn and joblib.

    Parameters
    ----------
    message : str or Warning
        What to say, or the warning itself.
    category : type, default=None
        Class of the warning; not needed with a warning itself.
    """
    level, frame = 1, inspect.currentframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGES):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
