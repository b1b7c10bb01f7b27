"""A model along a trajectory: what hangs on timesteps and labels alone, known beforehand, is computed once.

The modulation of every block (adaLN) depends on timestep and label, the position bias on nothing: both are computed
before the blocks run, the modulation for as many timesteps at a time as a budget of memory allows. Nothing outlives the
trajectory, and a change of the weights while it lasts is noticed.

Letters: N batch, W timesteps computed at a time, L distinct labels, M numbers of modulation of all layers, D width.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mdt_core.layers import Conditioning
from mdt_core.transformer import MDTTransformer

BUDGET = 128 * 2**20  # bytes of modulation held at a time: all of S/2's 250 steps with one class; 80 of XL/2's


class CachedModel:
    """A model for the timesteps and labels of one trajectory: `trajectory(x, timesteps, class_labels, keep=None)`.

    Arguments and result are the model's, except that all timesteps of a call are equal and best on the CPU, where
    reading them waits for nothing. A call with other timesteps works too. In training mode it is the model itself.

    Args:
        model: the transformer.
        timesteps: those to come, in their order.
        class_labels: those to come, null class included; no others may be asked for.
        budget: bytes of modulation to hold at a time.
        wrap: what to make of the function that evaluates the blocks, such as a CUDA graph of it. A masked pass goes
            without: every number of kept tokens would be recorded anew.
    """

    def __init__(
        self,
        model: MDTTransformer,
        timesteps: Sequence[int],
        class_labels: Sequence[int],
        budget: int = BUDGET,
        wrap: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] | None = None,
    ):
        self.model, self.timesteps, self.budget, self.wrap = model, list(timesteps), budget, wrap
        self.labels = sorted(set(class_labels))
        self.layers = [m for m in model.modules() if hasattr(m, "adaLN_modulation")]
        self.widths = [layer.adaLN_modulation[-1].out_features for layer in self.layers]
        self.biases = [m for m in model.modules() if hasattr(m, "relative_position_bias_table")]
        used = [model.t_embedder, model.y_embedder, *(layer.adaLN_modulation for layer in self.layers), *self.biases]
        self._slots = [(m._parameters, name) for part in used for m in part.modules() for name in m._parameters]
        self._weights: tuple | None = None
        self._rows: dict[int, int] = {}  # timestep -> its first row in the table

    def __call__(self, x: Tensor, timesteps: Tensor, class_labels: Tensor, keep: Tensor | None = None) -> Tensor:
        if self.model.training or not bool((timesteps == timesteps[0]).all()):
            return self.model(x, timesteps, class_labels, keep)
        return self._look_up(x, int(timesteps[0]), class_labels, keep)

    @torch.no_grad()
    def _look_up(self, x: Tensor, t: int, class_labels: Tensor, keep: Tensor | None) -> Tensor:
        if self._weights != (weights := self._fingerprint(x)):
            self._weights = weights
            self._prepare(x.device)
        if t not in self._rows:
            self._compute(t, x.device)
        rows = self._rows[t] + self._place[class_labels]
        run = self._evaluate if keep is None else self._evaluate_masked
        return run(x, self._table.index_select(0, rows), keep)

    def _fingerprint(self, x: Tensor) -> tuple:
        """Changes with the weights that were used, whether written in place, replaced or moved, and with autocast."""
        weights = (slots[name] for slots, name in self._slots)
        # A tensor made in inference mode counts no versions; it can be written in that mode alone.
        versions = [(w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights if w is not None]
        return x.device, torch.is_autocast_enabled(x.device.type), *versions

    def _prepare(self, device: torch.device) -> None:
        """What depends on the weights alone: every position bias, and an empty table."""
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else self.model.dtype
        bias = {module: module().to(dtype) for module in self.biases}
        # No method of this object: it would hold itself, and its tables stay until Python looks for such circles.
        self._evaluate_masked = partial(evaluate, self.model, self.layers, self.widths, bias)
        self._evaluate = self._evaluate_masked if self.wrap is None else self.wrap(self._evaluate_masked)
        # Of a label within its timestep's rows; a label that was not announced leads out of the table: an error.
        self._place = torch.full((self.model.config.num_classes + 1,), -(2**31), device=device)
        self._place[self.labels] = torch.arange(len(self.labels), device=device)
        self._rows = {}

    def _compute(self, t: int, device: torch.device) -> None:
        """The table of modulations (W L, M) from timestep `t` on."""
        row = sum(self.widths) * self.layers[0].adaLN_modulation[-1].weight.element_size() * len(self.labels)
        at = self.timesteps.index(t) if t in self.timesteps else len(self.timesteps)
        window = [t, *dict.fromkeys(s for s in self.timesteps[at:] if s != t)][: max(1, self.budget // row)]
        labels = torch.tensor(self.labels * len(window), device=device)
        times = torch.tensor(window, device=device).repeat_interleave(len(self.labels))
        c = self.model.embed(times, labels)  # (W L, D)
        self._table = torch.cat([layer.adaLN_modulation(c) for layer in self.layers], dim=1)
        self._rows = {s: i * len(self.labels) for i, s in enumerate(window)}


def evaluate(
    model: MDTTransformer,
    layers: Sequence[nn.Module],
    widths: Sequence[int],
    bias: dict[nn.Module, Tensor],
    x: Tensor,
    modulation: Tensor,
    keep: Tensor | None,
) -> Tensor:
    """x (N, C, h, w) and the modulation (N, M) of all `layers`, each as wide as `widths` says -> (N, 2C, h, w)."""
    modulations = dict(zip(layers, modulation.split(widths, dim=1), strict=True))
    return model.predict(x, CachedConditioning(modulations, bias), keep)


class CachedConditioning(Conditioning):
    """A conditioning that was computed before."""

    def __init__(self, modulations: dict[nn.Module, Tensor], biases: dict[nn.Module, Tensor]):
        self.modulations, self.biases = modulations, biases

    def modulation(self, layer: nn.Module) -> Tensor:
        """Looked up."""
        return self.modulations[layer]

    def bias(self, table: nn.Module, pairs: Tensor | None) -> Tensor:
        """Looked up for all tokens; for the pairs of a masked pass it is computed."""
        return self.biases[table] if pairs is None else table(pairs)
