"""
Which sentences taught it this?
===============================

A small language model learns from the docstrings of Python's standard library. It has never seen
what `math.acos` says of itself, but it expects the sentence word by word. Who taught it? The
influence of every training sentence on the loss of this one, with Kronecker factors, and of the
sentences with the most influence, the influence of each word.

The loss of a text is a mean over its positions, so its gradient and its influence are sums over
them: `token_influence` has the terms.
"""

# %%
# First sentences of docstrings, as words
# ---------------------------------------

import importlib
import inspect
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from torch.nn import functional as F

from skinfluence import KFACInfluence
from skinfluence.diagnostics import token_influence
from skinfluence.models.torch import TorchModel

MODULES = (
    "math cmath statistics random os os.path shutil pathlib datetime time calendar collections "
    "itertools functools operator string re json csv io socket email.message http.client "
    "urllib.parse urllib.request logging argparse threading subprocess unittest decimal fractions"
).split()
LENGTH, END, UNKNOWN = 16, 0, 1


def sentences():
    """The first sentence of every docstring of these modules, by the name of its owner."""
    found = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for label, member in inspect.getmembers(module):
            members = inspect.getmembers(member) if inspect.isclass(member) else []
            for inner, thing in [("", member), *members]:
                text = getattr(thing, "__doc__", None)
                if isinstance(text, str) and not inner.startswith("_"):
                    first = re.split(r"\.\s|\n\s*\n", text.strip())[0]
                    words = re.findall(r"[a-z]+|[().,]", first.lower())
                    if 5 <= len(words) <= LENGTH:
                        found.setdefault(" ".join(words), f"{name}.{label}.{inner}".rstrip("."))
    return found


owners = sentences()
words_of = [sentence.split() for sentence in owners]
names = list(owners.values())
counts = {}
for words in words_of:
    for word in words:
        counts[word] = counts.get(word, 0) + 1
vocabulary = ["<end>", "<unknown>", *(word for word, n in counts.items() if n > 1)]
number = {word: i for i, word in enumerate(vocabulary)}

text = np.zeros((len(words_of), LENGTH + 1), dtype=int)
for row, words in zip(text, words_of, strict=True):
    row[1 : len(words) + 1] = [number.get(word, UNKNOWN) for word in words]
X, y = text[:, :-1], text[:, 1:].copy()
# What comes after the end of a sentence is no target, and neither is an unknown word.
past = np.cumsum(y == END, axis=1) > 1
y[past | (y == UNKNOWN)] = -100

query = names.index("math.acos")
train = np.delete(np.arange(len(X)), query)
print(f"{len(train)} sentences, {len(vocabulary)} words")

# %%
# A transformer that predicts the next word
# -----------------------------------------
# Its outputs are scores of all words at all positions, (n, n_words, n_positions), as the cross
# entropy of torch reads them.

WEIGHT_DECAY = 1e-4


class Block(nn.Module):
    """Attention to the words before, and a perceptron."""

    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, h):
        n_words = h.shape[1]
        later = torch.triu(torch.ones(n_words, n_words, dtype=torch.bool), 1)
        x = self.norms[0](h)
        h = h + self.attention(x, x, x, attn_mask=later, need_weights=False)[0]
        return h + self.narrow(F.gelu(self.wide(self.norms[1](h))))


class LanguageModel(nn.Module):
    """Scores of every next word."""

    def __init__(self, width=48):
        super().__init__()
        self.words = nn.Embedding(len(vocabulary), width)
        self.places = nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(vocabulary))

    def forward(self, x):
        h = self.words(x) + self.places(torch.arange(x.shape[1]))
        return self.head(self.norm(self.blocks(h))).transpose(1, 2)


def train_on(rows, n_steps=400):
    """A model that is trained on some of the sentences."""
    torch.manual_seed(0)
    module = LanguageModel()
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=n_steps)
    inputs, targets = torch.as_tensor(X), torch.as_tensor(y)
    order = np.random.default_rng(0)
    for _ in range(n_steps):
        batch = order.choice(rows, 64)
        loss = F.cross_entropy(module(inputs[batch]), targets[batch])
        decay = sum(p.square().sum() for p in module.parameters())
        optimiser.zero_grad()
        (loss + WEIGHT_DECAY / 2 * decay).backward()
        optimiser.step()
        schedule.step()
    return module.eval()


def loss_of_query(module):
    """Loss of every word of the sentence that was left out."""
    with torch.no_grad():
        scores = module(torch.as_tensor(X[[query]]))
        return F.cross_entropy(scores, torch.as_tensor(y[[query]]), reduction="none")[0].numpy()


module = train_on(train)
losses = loss_of_query(module)
n_words = int((y[query] != -100).sum())
print(f"Mean loss of the words of math.acos: {losses[:n_words].mean():.2f}")

# %%
# Influence of sentences, then of their words
# -------------------------------------------
# ``fisher="sampled"`` draws labels from the model, so that nothing has a number for every pair of
# words at every pair of positions.

model = TorchModel(module, loss="cross_entropy", l2=WEIGHT_DECAY)
influence = KFACInfluence(model, fisher="sampled", damping=1e-4, random_state=0)
with warnings.catch_warnings():
    # A network that is stopped early is not at a minimum, as this warning says.
    warnings.simplefilter("ignore", ConvergenceWarning)
    influence.fit(X[train], y[train])

scores = influence.influence(X[[query]], y[[query]])[0]
helpful = np.argsort(scores)[:6]
terms = token_influence(influence, X[[query]], y[[query]], helpful)[0]
for i in helpful:
    print(f"{scores[i]:9.2f}  {names[train[i]]}: {' '.join(words_of[train[i]])}")

# %%
# Without its teachers
# --------------------
# The model is trained again without the 20 sentences that helped most, and without 20 others.

twenty = np.argsort(scores)[:20]
others = np.random.default_rng(0).choice(np.setdiff1d(np.arange(len(train)), twenty), 20)
for label, left_out in [("the 20 most helpful", twenty), ("20 others", others)]:
    again = loss_of_query(train_on(np.delete(train, left_out)))
    print(f"without {label}: {again[:n_words].mean():.2f}")

# %%
# The figure
# ----------

fig, ax = plt.subplots(figsize=(11, 3.6), layout="constrained")
rows = [query, *train[helpful]]
shade = np.full((len(rows), LENGTH), np.nan)
shade[1:] = terms / np.abs(terms).max()
image = ax.imshow(shade, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
for place, row in enumerate(rows):
    for column, word in enumerate([*words_of[row], "end"][:LENGTH]):
        known = y[row, column] != -100
        dark = place and abs(shade[place, column]) > 0.6
        color = "white" if dark else "black" if known else "silver"
        ax.text(column, place, word, ha="center", va="center", fontsize=8, color=color)
ax.axhline(0.5, color="black", linewidth=1)
ax.set_yticks(range(len(rows)), [names[row] for row in rows])
ax.set_xticks([])
ax.set_xlim(-0.5, max(len(words_of[row]) for row in rows) + 0.5)
ax.set_title("Words of training sentences that taught the sentence above the line")
bar = fig.colorbar(image, ax=ax, ticks=[-1, 0, 1], pad=0.01)
bar.ax.set_yticklabels(["helpful", "0", "harmful"])
plt.show()
