"""Time and results of SketchedInfluenceCV and of the grid search that it stands for.

    python -m benchmarks.search_speed [--full]

writes ``benchmarks/results/search_speed.md``. On digits both search the whole grid. On MNIST the
grid search takes one damping of every size unless ``--full`` is given: its candidates cost the
same for each damping, so its time is that of these, times the number of dampings. It then takes
the refits that the other search has made, so that they are not counted twelve times.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from benchmarks.datasets import load_digits, load_mnist_5k
from skinfluence import SketchedInfluence, SketchedInfluenceCV
from skinfluence.metrics import InfluenceScorer
from skinfluence.refitting import loss_cache as _cache

RESULTS = Path(__file__).parent / "results"
SIZES = {
    "digits": (load_digits, 16, [18, 45, 90, 135, 180, 270, 360, 540]),
    "MNIST": (load_mnist_5k, 255, [45, 90, 180, 324, 486, 648, 972, 1296]),
}
DAMPINGS = [0.0, *np.logspace(-6, 0, 11)]
FOLDS = StratifiedKFold(3, shuffle=True, random_state=0)
SCORING = InfluenceScorer(n_subsets=20)


def timed(search, X, y, *, forget=True):
    """CPU seconds of a search."""
    if forget:
        _cache.PROCESS_STORE.clear()
    start = time.process_time()
    search.fit(X, y)
    return time.process_time() - start


def compare(name, full):
    load, largest, sizes = SIZES[name]
    X, y = load()
    X = X / largest
    model = LogisticRegression(C=0.01, max_iter=1000)
    settings = {"cv": FOLDS, "scoring": SCORING}
    fast = SketchedInfluenceCV(
        model, sketch_sizes=sizes, dampings=DAMPINGS, random_state=0, **settings
    )
    seconds = timed(fast, X, y)
    yield f"## {name}, {X.shape[0]} x {X.shape[1]}, 8 sizes x 12 dampings, 3 folds, C = 0.01"
    yield ""
    yield (
        f"- SketchedInfluenceCV: {seconds:.1f} s; best {_shown(fast.best_params_)}, "
        f"LDS {fast.best_score_:.4f}"
    )
    dampings = DAMPINGS if full else DAMPINGS[:1]
    grid = {"sketch_size": sizes, "damping": dampings}
    slow = GridSearchCV(SketchedInfluence(model, random_state=0), grid, **settings)
    measured = timed(slow, X, y, forget=full)
    whole = measured * len(DAMPINGS) / len(dampings)
    how = ""
    if not full:
        tried = f"{len(sizes)} of {len(sizes) * len(DAMPINGS)} candidates"
        how = f", extrapolated from {measured:.1f} s for {tried}"
    yield (
        f"- GridSearchCV: {whole:.1f} s{how}; best of those {_shown(slow.best_params_)}, "
        f"LDS {slow.best_score_:.4f}"
    )
    yield f"- **{whole / seconds:.1f} times faster**" + ("" if full else ", extrapolated")
    results = fast.cv_results_
    same = np.isin(results["param_damping"], dampings)
    gap = np.abs(results["mean_test_score"][same] - slow.cv_results_["mean_test_score"]).max()
    params = np.array(results["params"])[same]
    winner = params[np.argmax(results["mean_test_score"][same])]
    agrees = "the same" if winner == slow.best_params_ else f"another, {_shown(winner)}"
    yield (
        f"- of the candidates that both have tried: winner {agrees}, largest difference of a "
        f"mean score {gap:.4f}"
    )
    yield ""


def _shown(params):
    return f"m = {params['sketch_size']}, damping = {params['damping']:.1e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="search the whole grid on MNIST too")
    parser.add_argument("--data", choices=SIZES, nargs="*", default=list(SIZES))
    arguments = parser.parse_args()
    lines = [
        "# Built-in search against grid search",
        "",
        "Made by `python -m benchmarks.search_speed`, in CPU seconds of one process; it takes "
        "what it reports, without what is extrapolated. Both score by 20 refits for each split. "
        "The grid search is extrapolated where only one damping of every size was tried: its "
        "candidates cost the same for each damping.",
        "",
    ]
    for name in arguments.data:
        for line in compare(name, arguments.full or name == "digits"):
            print(line, flush=True)
            lines.append(line)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "search_speed.md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
