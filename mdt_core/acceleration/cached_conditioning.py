"""A model with a cache of its conditioning: what depends on timestep and label alone is computed once.

Timesteps and labels of a trajectory are known before it begins. The modulation of every block (adaLN) depends on both,
the position bias on neither. A cache lives as long as its trajectory, and notices when the weights change meanwhile.

Letters: N batch, W timesteps computed at a time, L distinct labels, each a number or a row of weights (a mix of
classes), M numbers of modulation of all layers, D width.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mdt_core.layers import Conditioning
from mdt_core.transformer import MDTTransformer

BUDGET = 8 * 2**20  # bytes of modulation held for each label: 64 timesteps of S/2, 10 of XL/2


def versions(weights: Iterable[Tensor]) -> list[tuple[int, int]]:
    """Changes with the weights, whether written in place, replaced or moved."""
    # A tensor made in inference mode counts no versions; it can be written in that mode alone.
    return [(w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights]


class CachedModel:
    """A model for the timesteps and labels of one trajectory: `cached(x, timesteps, class_labels, keep=None)`.

    Arguments and result are the model's. All timesteps of a call should be equal and lie on the CPU, where reading them
    waits for no GPU; for other calls, and in training mode, the model is asked.

    Args:
        model: the transformer.
        timesteps: those to come, in their order.
        class_labels: those to come, null class included, (L,) or (L, num_classes + 1); no others may be asked for.
        budget: bytes of modulation to hold for each label.
        wrap: what to make of the function that evaluates the blocks, such as a CUDA graph of it. A masked pass goes
            without: every number of kept tokens would be recorded anew.
    """

    def __init__(
        self,
        model: MDTTransformer,
        timesteps: Sequence[int],
        class_labels: Sequence[int] | Tensor,
        budget: int = BUDGET,
        wrap: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] | None = None,
    ):
        self.model, self.timesteps, self.budget, self.wrap = model, list(timesteps), budget, wrap
        self.labels = torch.as_tensor(class_labels).unique(dim=0)
        self.layers = [m for m in model.modules() if hasattr(m, "adaLN_modulation")]
        self.widths = [layer.adaLN_modulation[-1].out_features for layer in self.layers]
        self.biases = [m for m in model.modules() if hasattr(m, "relative_position_bias_table")]
        used = [model.t_embedder, model.y_embedder, *(layer.adaLN_modulation for layer in self.layers), *self.biases]
        self._slots = [(m._parameters, name) for part in used for m in part.modules() for name in m._parameters]
        self._weights: tuple | None = None
        self._window: list[int] = []  # timesteps whose modulation is there

    def __call__(self, x: Tensor, timesteps: Tensor, class_labels: Tensor, keep: Tensor | None = None) -> Tensor:
        """The model's answer, by the cache where all timesteps are equal."""
        if self.model.training or not bool((timesteps == timesteps[0]).all()):
            return self.model(x, timesteps, class_labels, keep)
        return self._look_up(x, int(timesteps[0]), class_labels, keep)

    @torch.no_grad()
    def _look_up(self, x: Tensor, t: int, class_labels: Tensor, keep: Tensor | None) -> Tensor:
        if self._weights != (weights := self._versions(x)):
            self._weights = weights
            self._reset(x.device)
        if t not in self._window:
            self._fill(t, x.device)
        rows = self._places(class_labels) * len(self._window) + self._window.index(t)
        run = self._evaluate if keep is None else self._evaluate_masked
        return run(x, self._modulation.index_select(0, rows), self.model.shares(class_labels), keep)

    def _places(self, class_labels: Tensor) -> Tensor:
        """(N,) places among `labels`. One that is not among them gets a place outside of the table: an error."""
        same = class_labels[:, None] == self.labels  # (N, L), of mixes (N, L, num_classes + 1)
        same = same if same.ndim == 2 else same.all(-1)
        return torch.where(same.any(1), same.int().argmax(1), -(2**31))

    def _versions(self, x: Tensor) -> tuple:
        """Changes with the weights that were used, whether written in place, replaced or moved, and with autocast."""
        weights = (slots[name] for slots, name in self._slots)
        return x.device, torch.is_autocast_enabled(x.device.type), versions(w for w in weights if w is not None)

    def _reset(self, device: torch.device) -> None:
        """Compute what depends on the weights alone, every position bias, and forget the modulation."""
        autocast = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if autocast else self.model.dtype
        bias = {module: module().to(dtype) for module in self.biases}
        # Not bound methods: a reference to this object from itself is a cycle, and keeps its tables in memory until the
        # garbage collector runs.
        self._evaluate_masked = partial(evaluate, self.model, self.layers, self.widths, bias)
        self._evaluate = self._evaluate_masked if self.wrap is None else self.wrap(self._evaluate_masked)
        self.labels = self.labels.to(device)
        self._window = []

    def _fill(self, t: int, device: torch.device) -> None:
        """Compute the modulation (L W, M) for the timesteps from `t` on.

        In a product of its own for every label: how a row is rounded depends on the number of rows, and must not
        depend on which other labels there are.
        """
        row = sum(self.widths) * self.layers[0].adaLN_modulation[-1].weight.element_size()
        at = self.timesteps.index(t) if t in self.timesteps else len(self.timesteps)
        self._window = [t, *dict.fromkeys(s for s in self.timesteps[at:] if s != t)][: max(1, self.budget // row)]
        timesteps = torch.tensor(self._window, device=device)
        cs = [self.model.embed(timesteps, label) for label in self.labels.split(1)]  # each (W, D)
        rows = [torch.cat([layer.adaLN_modulation(c) for layer in self.layers], dim=1) for c in cs]  # each (W, M)
        self._modulation = torch.cat(rows)


def evaluate(
    model: MDTTransformer,
    layers: Sequence[nn.Module],
    widths: Sequence[int],
    bias: dict[nn.Module, Tensor],
    x: Tensor,
    modulation: Tensor,
    shares: Tensor | None,
    keep: Tensor | None,
) -> Tensor:
    """x (N, C, h, w) and the modulation (N, M) of all `layers`, each as wide as `widths` says -> (N, 2C, h, w)."""
    modulations = dict(zip(layers, modulation.split(widths, dim=1), strict=True))
    return model.predict(x, CachedConditioning(modulations, bias, shares), keep)


class CachedConditioning(Conditioning):
    """A conditioning that was computed before."""

    def __init__(self, modulations: dict[nn.Module, Tensor], biases: dict[nn.Module, Tensor], shares: Tensor | None):
        self.modulations, self.biases, self.shares = modulations, biases, shares

    def modulation(self, layer: nn.Module) -> Tensor:
        """Looked up."""
        return self.modulations[layer]

    def bias(self, table: nn.Module, pairs: Tensor | None) -> Tensor:
        """Looked up for all tokens; for the pairs of a masked pass it is computed."""
        return self.biases[table] if pairs is None else table(pairs)
