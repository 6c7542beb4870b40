"""Recurrent layers whose gates are layers of their own.

LSTM, GRU and RNN, and their cells, multiply with their weights inside one function of torch. The
copies below write out the recurrence: the inputs of all steps pass through one layer, the state of
each step through another.
"""

import torch
from torch import nn

from skinfluence.models.torch._parts import Part


def _lstm(inputs, states, state):
    """One step of an LSTM, from the gates' terms of its inputs and of its last state."""
    i, f, g, o = (inputs + states).chunk(4, dim=-1)
    cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _gru(inputs, states, state):
    (r, z, n), (hr, hz, hn) = inputs.chunk(3, dim=-1), states.chunk(3, dim=-1)
    z, n = torch.sigmoid(z + hz), torch.tanh(n + torch.sigmoid(r + hr) * hn)
    return ((1 - z) * n + z * state[0],)


def _tanh(inputs, states, state):
    return (torch.tanh(inputs + states),)


def _relu(inputs, states, state):
    return (torch.relu(inputs + states),)


# One step of each kind of recurrence.
STEPS = {"LSTM": _lstm, "GRU": _gru, "RNN_TANH": _tanh, "RNN_RELU": _relu}


class SplitCell(nn.Module):
    """A cell that calls its gates as layers; mixed into the cells of torch."""

    def forward(self, input, hx=None):
        """The state after one step."""
        shape = *input.shape[:-1], self.hidden_size
        is_lstm = self.kind == "LSTM"
        if hx is None:
            state = (input.new_zeros(shape),) * (1 + is_lstm)
        else:
            state = hx if is_lstm else (hx,)
        found = STEPS[self.kind](self.gates_of_input(input), self.gates_of_state(state[0]), state)
        return found if is_lstm else found[0]


class SplitLSTMCell(SplitCell, nn.LSTMCell):
    """An LSTM cell that calls its gates as layers."""

    kind = "LSTM"


class SplitGRUCell(SplitCell, nn.GRUCell):
    """A GRU cell that calls its gates as layers."""

    kind = "GRU"


class SplitRNNCell(SplitCell, nn.RNNCell):
    """A cell of an RNN that calls its gates as layers."""

    @property
    def kind(self):
        """Key of `STEPS`."""
        return f"RNN_{self.nonlinearity.upper()}"


class SplitRecurrence(nn.Module):
    """A recurrence that calls its gates as layers; mixed into the recurrences of torch."""

    def forward(self, input, hx=None):
        """The outputs of all steps and the last state, without dropout."""
        if not isinstance(input, torch.Tensor):
            # Packed sequences have another number of samples at each step.
            return super().forward(input, hx)
        is_batch = input.dim() == 3
        x = input if is_batch else input.unsqueeze(0 if self.batch_first else 1)
        x = x.transpose(0, 1) if self.batch_first else x
        state = self._first_state(x, hx, is_batch)
        last = []
        for layer in range(self.num_layers):
            directions = []
            for suffix in self._suffixes(layer):
                own = tuple(part[len(last)] for part in state)
                outputs, final = self._run(suffix, x, own)
                directions.append(outputs)
                last.append(final)
            x = torch.cat(directions, dim=-1)
        last = tuple(torch.stack(part) for part in zip(*last, strict=True))
        x = x.transpose(0, 1) if self.batch_first else x
        if not is_batch:
            x = x.squeeze(0 if self.batch_first else 1)
            last = tuple(part.squeeze(1) for part in last)
        return x, last if self.mode == "LSTM" else last[0]

    def _suffixes(self, layer):
        """Ends of the names of the weights of a layer, one for each direction."""
        return [f"_l{layer}{end}" for end in ("", "_reverse")[: 1 + self.bidirectional]]

    def _first_state(self, x, hx, is_batch):
        n_states = self.num_layers * (1 + self.bidirectional)
        if hx is None:
            sizes = (self.proj_size or self.hidden_size, self.hidden_size)
            n_parts = 1 + (self.mode == "LSTM")
            return tuple(x.new_zeros(n_states, x.shape[1], size) for size in sizes[:n_parts])
        hx = hx if self.mode == "LSTM" else (hx,)
        return hx if is_batch else tuple(part.unsqueeze(1) for part in hx)

    def _run(self, suffix, x, state):
        """Outputs of all steps of one direction of a layer, and its last state."""
        gates = getattr(self, f"gates_of_input{suffix}")(x)
        steps = range(len(x))
        outputs = []
        for step in reversed(steps) if suffix.endswith("_reverse") else steps:
            states = getattr(self, f"gates_of_state{suffix}")(state[0])
            state = STEPS[self.mode](gates[step], states, state)
            if self.proj_size:
                state = getattr(self, f"projection{suffix}")(state[0]), *state[1:]
            outputs.append(state[0])
        if suffix.endswith("_reverse"):
            outputs.reverse()
        return torch.stack(outputs), state


class SplitLSTM(SplitRecurrence, nn.LSTM):
    """An LSTM that calls its gates as layers."""


class SplitGRU(SplitRecurrence, nn.GRU):
    """A GRU that calls its gates as layers."""


class SplitRNN(SplitRecurrence, nn.RNN):
    """An RNN that calls its gates as layers."""


CELLS = {nn.LSTMCell: SplitLSTMCell, nn.GRUCell: SplitGRUCell, nn.RNNCell: SplitRNNCell}
RECURRENCES = {nn.LSTM: SplitLSTM, nn.GRU: SplitGRU, nn.RNN: SplitRNN}


def split_recurrent(module):
    """Let every recurrent layer and cell call its gates as layers.

    Parameters
    ----------
    module : Module
        A copy, which is changed.

    Returns
    -------
    Module
        The same module.
    """
    for layer in list(module.modules()):
        if type(layer) in CELLS:
            _add_gates(layer, "")
            layer.__class__ = CELLS[type(layer)]
        elif type(layer) in RECURRENCES:
            for name in [name for name, _ in layer.named_parameters(recurse=False)]:
                if name.startswith("weight_ih"):
                    _add_gates(layer, name.removeprefix("weight_ih"))
            # A class, unlike a function on the instance, can be pickled.
            layer.__class__ = RECURRENCES[type(layer)]
    return module


def _add_gates(layer, suffix):
    parts = {
        "gates_of_input": ("weight_ih", "bias_ih"),
        "gates_of_state": ("weight_hh", "bias_hh"),
        "projection": ("weight_hr", "bias_hr"),
    }
    for name, (weight, bias) in parts.items():
        if hasattr(layer, weight + suffix):
            layer.add_module(name + suffix, Part(layer, weight + suffix, bias + suffix))
