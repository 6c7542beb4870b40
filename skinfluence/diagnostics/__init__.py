"""What a fit says of its training set as a whole: functions of a fitted influence estimator."""

__all__: list[str] = []
