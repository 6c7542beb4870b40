"""
Which rows taught a network that reads an image beside a number?
================================================================

A network is shown a handwritten digit and a number, and answers whether the digit is larger. Its
two inputs are a dict of arrays, read from a Dataset of torch. Some training answers are wrong:
`ExactInfluence` shows which of them misled the network on queries, and finds others too.
"""

# %%
# Two inputs
# ----------
# Samples are dicts, as a DataLoader yields them. :func:`~skinfluence.models.torch.read_dataset`
# reads each of them once: arrays by the names of the arguments of ``forward``, and the targets
# apart.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import Dataset

from skinfluence import ExactInfluence
from skinfluence.models.torch import TorchModel, read_dataset


class Comparisons(Dataset):
    """An image of a digit, a number between two digits, and whether the digit is larger."""

    def __init__(self, start, stop, n_wrong=0, seed=0):
        rng = np.random.default_rng(seed)
        self.images, self.digits = (part[start:stop] for part in load_digits(return_X_y=True))
        self.numbers = rng.integers(0, 9, len(self.digits)) + 0.5
        self.wrong = np.isin(np.arange(len(self.digits)), rng.permutation(stop - start)[:n_wrong])
        self.answers = (self.digits > self.numbers) ^ self.wrong

    def __len__(self):
        return len(self.digits)

    def __getitem__(self, i):
        image = torch.tensor(self.images[i], dtype=torch.float64).reshape(1, 8, 8) / 16
        number = torch.tensor([self.numbers[i] / 9])
        return {"image": image, "number": number, "labels": int(self.answers[i])}


train_set, test_set = Comparisons(0, 1300, n_wrong=60), Comparisons(1300, 1797, seed=1)
X, y = read_dataset(train_set)
X_test, y_test = read_dataset(test_set)
print({name: value.shape for name, value in X.items()}, y.shape)

# %%
# A network that reads them
# -------------------------
# ``inputs=X`` tells the model what the module takes. It trains to a minimum, where influence is
# defined; ``train`` gets the same dict, as tensors.

WEIGHT_DECAY = 1e-2


class Comparison(nn.Module):
    """Convolutions read the image, and the number joins what they have found."""

    def __init__(self):
        super().__init__()
        self.eye = nn.Sequential(
            *(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.Tanh()),
            *(nn.Flatten(), nn.Linear(96, 12), nn.Tanh()),
        )
        self.judge = nn.Sequential(nn.Linear(13, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, image, number):
        return self.judge(torch.cat([self.eye(image), number], dim=1))


def train(module, X, y, sample_weight=None):
    labels, parameters = torch.as_tensor(y), list(module.parameters())
    optimiser = torch.optim.LBFGS(parameters, max_iter=600, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(module(**X), labels)
        loss = loss + WEIGHT_DECAY / 2 * sum(p.square().sum() for p in parameters)
        loss.backward()
        return loss

    optimiser.step(closure)


torch.manual_seed(0)
model = TorchModel(Comparison().double(), l2=WEIGHT_DECAY, inputs=X, train=train)
influence = ExactInfluence(model, curvature="ggn").fit(X, y)
predicted = influence.estimator_.predict(X_test)
print(f"accuracy {np.mean(predicted == y_test):.3f} of {len(y_test)} queries")

# %%
# What misled it
# --------------
# Three answers of the network that are wrong, and the training rows that did most harm and most
# good there. Rows whose answer is wrong have an orange frame.

mistakes = np.flatnonzero(predicted != y_test)[:3]
queries = {name: values[mistakes] for name, values in X_test.items()}
harmful, _ = influence.most_influential(queries, y_test[mistakes], k=4)
helpful, _ = influence.most_influential(queries, y_test[mistakes], k=4, by="helpful")

fig = plt.figure(figsize=(9, 4), layout="constrained")
panels = fig.subfigures(1, 3, width_ratios=[1.1, 4, 4])


def draw(panel, title, data, rows, answers):
    panel.suptitle(title)
    for ax, row in zip(panel.subplots(*rows.shape, squeeze=False).flat, rows.flat, strict=True):
        ax.imshow(-data.images[row].reshape(8, 8), cmap="gray")
        sign = ">" if answers[row] else "<"
        ax.set_title(f"{sign} {data.numbers[row]}", fontsize="medium")
        ax.set(xticks=[], yticks=[])
        if data.wrong[row]:
            ax.spines[:].set(color="#d55e00", linewidth=3)


draw(panels[0], "answered", test_set, mistakes[:, None], predicted)
draw(panels[1], "most harmful", train_set, harmful, train_set.answers)
draw(panels[2], "most helpful", train_set, helpful, train_set.answers)
plt.show()

# %%
# Is it so?
# ---------
# The rows with the largest influence on their own loss are those with wrong answers. Without the
# 60 most suspicious of them, the network is trained again.

suspicion = influence.self_influence()
suspects = np.argsort(-suspicion)[:60]
print(
    f"AUC of self-influence against wrong answers: {roc_auc_score(train_set.wrong, suspicion):.3f}"
)
print(f"{train_set.wrong[suspects].sum()} of the 60 suspects have a wrong answer")

kept = np.setdiff1d(np.arange(len(y)), suspects)
again = model.fit({name: values[kept] for name, values in X.items()}, y[kept])
print(f"accuracy without them {again.score(X_test, y_test):.3f}")

# %%
# References
# ----------
# Koh and Liang, *Understanding Black-box Predictions via Influence Functions*, 2017.
