"""
Which rows moved the adapters?
==============================

A network reads handwritten digits from 0 to 4. Then its layers are frozen, and adapters of rank 4
beside them (LoRA) learn all ten digits from 400 images, of which 40 have a wrong label. Only the
adapters were trained on these images, so ``parameters="*lora*"`` studies them alone: the loss of
held-out images is harmed most by the wrong labels.
"""

# %%
# A network with adapters beside its layers
# -----------------------------------------

import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

from skinfluence import KFACInfluence
from skinfluence.models.torch import TorchModel

WEIGHT_DECAY = 1e-3


class Adapted(nn.Module):
    """A linear layer, and a product of two small ones that is added to it."""

    def __init__(self, n_inputs, n_outputs, rank=4):
        super().__init__()
        self.frozen = nn.Linear(n_inputs, n_outputs)
        self.lora_down = nn.Linear(n_inputs, rank, bias=False)
        self.lora_up = nn.Linear(rank, n_outputs, bias=False)
        nn.init.zeros_(self.lora_up.weight)

    def forward(self, x):
        return self.frozen(x) + self.lora_up(self.lora_down(x))


def train(module, X, y, part):
    """Train the parameters whose name has a part, with weight decay, and no others."""
    chosen = []
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(part in name)
        chosen += [parameter] if part in name else []
    inputs, labels = torch.as_tensor(X), torch.as_tensor(y)
    optimiser = torch.optim.LBFGS(chosen, max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = F.cross_entropy(module(inputs), labels)
        loss = loss + WEIGHT_DECAY / 2 * sum(p.square().sum() for p in chosen)
        loss.backward()
        return loss

    optimiser.step(closure)
    return module


X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
order = np.random.default_rng(0).permutation(len(X))
X, y = X[order], y[order]
small = y < 5
torch.manual_seed(0)
module = nn.Sequential(Adapted(64, 64), nn.Tanh(), Adapted(64, 32), nn.Tanh(), Adapted(32, 10))
train(module, X[small][:400], y[small][:400], "frozen")

# %%
# New images, some with a wrong label
# -----------------------------------

X_train, X_valid, y_valid = X[-400:], X[400:800], y[400:800]
y_train = y[-400:].copy()
rng = np.random.default_rng(1)
wrong = np.sort(rng.choice(400, 40, replace=False))
y_train[wrong] = (y_train[wrong] + rng.integers(1, 10, 40)) % 10
train(module, X_train, y_train, "lora")

model = TorchModel(module, l2=WEIGHT_DECAY, parameters="*lora*")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)
    influence = KFACInfluence(model).fit(X_train, y_train)
harm = influence.influence(X_valid, y_valid, reduce="mean")
print(f"{influence.n_params_} parameters in {[layer.name for layer in influence.layers_]}")
is_wrong = np.isin(np.arange(400), wrong)
print(f"Area under the ROC curve for wrong labels: {roc_auc_score(is_wrong, harm):.2f}")

# %%
# Without the most harmful tenth
# ------------------------------
# The adapters go back to where they started, and are trained on the other images.


def accuracy_without(rows):
    """Accuracy on held-out images of adapters that are trained without some rows."""
    torch.manual_seed(0)
    for layer in module[::2]:
        nn.init.kaiming_uniform_(layer.lora_down.weight, a=5**0.5)
        nn.init.zeros_(layer.lora_up.weight)
    train(module, np.delete(X_train, rows, axis=0), np.delete(y_train, rows), "lora")
    with torch.no_grad():
        return (module(torch.as_tensor(X_valid)).argmax(1).numpy() == y_valid).mean()


ranked = np.argsort(-harm)
for label, rows in [("all rows", []), ("40 at random", rng.choice(400, 40, replace=False))]:
    print(f"{label}: accuracy {accuracy_without(rows):.3f}")
print(f"without the 40 most harmful: accuracy {accuracy_without(ranked[:40]):.3f}")

# %%
# The most harmful images, with the labels that they were given
# -------------------------------------------------------------

fig, axes = plt.subplots(2, 8, figsize=(8, 2.8), layout="constrained")
for ax, i in zip(axes.flat, ranked, strict=False):
    ax.imshow(X_train[i].reshape(8, 8), cmap="gray_r")
    color = "tab:red" if is_wrong[i] else "black"
    ax.set_title(f"{y_train[i]}", color=color, fontsize=11)
    ax.axis("off")
fig.suptitle("Most harmful images and their labels: red where the label is wrong")
plt.show()
