"""How near to its minimum a model is taken to be at it."""

# A relative gradient norm above this is more than the solvers of scikit-learn leave at their
# default tolerances.
STATIONARITY_TOLERANCE = 1e-2

# The same for the step that is left to the minimum, relative to the residuals, by whether the loss
# is quadratic: direct solvers leave 1e-9, those that descend 0.03. Effects of leaving rows out are
# off by a share of once to three times as much.
STEP_TOLERANCE = {True: 1e-3, False: 5e-2}
