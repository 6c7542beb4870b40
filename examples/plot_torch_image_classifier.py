"""
Which images made a convolutional network err?
==============================================

A small convolutional network of torch reads handwritten digits. For three digits that it
gets wrong, `SketchedInfluence` finds the training images that did the most harm, and those that
argued for the right answer. It takes the trained module as it is.
"""

# %%
# A network, trained as usual
# ---------------------------
# The outputs are logits. Weight decay is a part of the objective, so influence has to know it.

import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from skinfluence import SketchedInfluence
from skinfluence.models.torch import TorchModel

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.5, random_state=0)

torch.manual_seed(0)
module = nn.Sequential(
    nn.Unflatten(1, (1, 8, 8)),
    nn.Conv2d(1, 8, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(8, 16, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(256, 10),
)
WEIGHT_DECAY = 5e-3


def train(module, X, y):
    inputs, labels = torch.as_tensor(X), torch.as_tensor(y)
    parameters = list(module.parameters())
    optimiser = torch.optim.LBFGS(parameters, max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(module(inputs), labels)
        loss = loss + WEIGHT_DECAY / 2 * sum(p.square().sum() for p in parameters)
        loss.backward()
        return loss

    # Influence is that of a model at its minimum, so train to it.
    optimiser.step(closure)
    return module


train(module, X_train, y_train)

# %%
# Influence on the wrong predictions
# ----------------------------------
# Positive influence is harm: more weight on that training image raises the loss of the query.
# The curvature is the Gauss-Newton matrix, on 500 of its 8980 root rows and one number for the
# rest.

model = TorchModel(module, l2=WEIGHT_DECAY)
influence = SketchedInfluence(model, curvature="ggn", sketch_size=500, random_state=0)
influence.fit(X_train, y_train)
predicted = influence.estimator_.predict(X_test)
wrong = np.flatnonzero(predicted != y_test)[:3]
print(f"accuracy {np.mean(predicted == y_test):.3f}, {(predicted != y_test).sum()} wrong")

queries = X_test[wrong], y_test[wrong]
harmful, harm = influence.most_influential(*queries, k=4, by="harmful")
helpful, help_ = influence.most_influential(*queries, k=4, by="helpful")

# %%
# The most helpful images look like the query, and nearly all have the right label.

fig = plt.figure(figsize=(8, 3.4), layout="constrained")
panels = fig.subfigures(1, 3, width_ratios=[1.3, 4, 4])


def draw(panel, title, images, captions, colour="black"):
    panel.suptitle(title, color=colour)
    axes = panel.subplots(*captions.shape, squeeze=False)
    for ax, image, caption in zip(axes.flat, images, captions.flat, strict=True):
        ax.imshow(1 - image.reshape(8, 8), cmap="gray")
        ax.set(xticks=[], yticks=[])
        ax.set_title(caption, fontsize="small", color=colour)


def labelled(indices, values):
    pairs = zip(y_train[indices].flat, values.flat, strict=True)
    return np.array([f"{label}: {value:+.0f}" for label, value in pairs]).reshape(values.shape)


captions = [f"{y_test[query]} read as {predicted[query]}" for query in wrong]
draw(panels[0], "query", X_test[wrong], np.array(captions)[:, None])
images = X_train[harmful.ravel()]
draw(panels[1], "most harmful", images, labelled(harmful, harm), "firebrick")
images = X_train[helpful.ravel()]
draw(panels[2], "most helpful", images, labelled(helpful, help_), "seagreen")
plt.show()

# %%
# Is it so?
# ---------
# Train on without the most harmful image of each query, and see what becomes of its loss.

effect = influence.leave_one_out_effect(*queries)
targets = torch.as_tensor(queries[1])


def losses(module):
    with torch.no_grad():
        scores = module(torch.as_tensor(queries[0]))
        return nn.functional.cross_entropy(scores, targets, reduction="none").numpy()


for i, row in enumerate(harmful[:, 0]):
    kept = np.arange(len(X_train)) != row
    refitted = train(copy.deepcopy(module), X_train[kept], y_train[kept])
    real = losses(refitted)[i] - losses(module)[i]
    print(f"without image {row}: loss {effect[i, row]:+.2f} predicted, {real:+.2f} real")

# %%
# References
# ----------
# Koh and Liang, *Understanding Black-box Predictions via Influence Functions*, 2017.
