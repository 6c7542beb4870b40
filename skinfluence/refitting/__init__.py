"""What happens without some of the training rows.

`removal` predicts the refit by a Newton step from the fitted model; `retraining` fits the model
again, which is the ground truth. Both iterate by `newton_cg`.
"""
