"""Results of a search, in the layout of GridSearchCV."""

import numpy as np
from scipy.stats import rankdata


def _ranks(scores):
    """Ranks from 1, the highest score first and NaN last."""
    worst = np.where(np.isnan(scores), -np.inf, scores)
    return rankdata(-worst, method="min").astype(np.int32)


def best(scores):
    """Position of the highest score, which NaN never is."""
    if np.isnan(scores).all():
        raise ValueError(
            "All candidates have the score NaN. Expected a number from scoring for at least one."
        )
    return int(np.nanargmax(scores))


def tabulated(grid, found):
    """Results of all candidates, from the scores and dimensions of each split."""
    scores, dimensions = zip(*found, strict=True)
    of_splits = np.array([[values.mean() for values in split] for split in scores])
    mean, dimension = of_splits.mean(axis=0), np.mean(dimensions, axis=0)
    pooled = [np.concatenate(values) for values in zip(*scores, strict=True)]
    # 1.96 standard errors of a mean over queries.
    margin = np.array([1.96 * values.std(ddof=1) / np.sqrt(len(values)) for values in pooled])
    table = {"params": grid}
    for name in grid[0]:
        table[f"param_{name}"] = np.array([point[name] for point in grid])
    for k, values in enumerate(of_splits):
        table[f"split{k}_test_score"] = values
    table["mean_test_score"] = mean
    table["std_test_score"] = of_splits.std(axis=0)
    table["rank_test_score"] = _ranks(mean)
    table["low_test_score"], table["high_test_score"] = mean - margin, mean + margin
    table["effective_dimension"] = dimension
    table["relative_size"] = table["param_sketch_size"] / dimension
    return table
