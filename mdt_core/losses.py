"""The training objective: min-SNR epsilon loss plus the variational term, over a full and a masked pass.

Letters: N batch, C latent channels, T tokens.
"""

from collections.abc import Callable

from torch import Tensor

from mdt_core.diffusion import Diffusion

TERMS = ("mse", "vb", "loss")  # of a pass


def training_terms(
    model: Callable[..., Tensor],
    diffusion: Diffusion,
    x_0: Tensor,
    timesteps: Tensor,
    class_labels: Tensor,
    noise: Tensor,
    keep: Tensor | None = None,
    min_snr_gamma: float | None = 5.0,
    noise_power: float = 0.0,
) -> dict[str, Tensor]:
    """The loss of one pass, per sample.

    Args:
        model: (x_t, timesteps, class_labels, keep) -> (N, 2C, h, w).
        diffusion: the full process.
        x_0: (N, C, h, w) clean latents.
        timesteps: (N,) in 0..999.
        class_labels: (N,), the null class where the label is dropped.
        noise: (N, C, h, w) standard normal.
        keep: (N, K) kept tokens, or None for the full pass.
        min_snr_gamma: gamma of min-SNR weighting (arXiv 2303.09556, eq. 7); None weighs all timesteps alike.
        noise_power: of the further weight SNR^-noise_power where there is more noise than signal: there the shapes of a
            picture are decided, of which epsilon's error tells little. 0: no further weight.

    Returns:
        (N,) each: "mse", the weighted epsilon error; "vb", the variational term in bits, which trains the
        variance alone (arXiv 2102.09672, section 3.1); "loss", their sum.
    """
    x_t = diffusion.add_noise(x_0, noise, timesteps)
    output = model(x_t, timesteps, class_labels, keep=keep)
    epsilon = output.chunk(2, dim=1)[0]
    mse = (epsilon - noise).square().mean(dim=(1, 2, 3))
    if min_snr_gamma is not None:
        mse = mse * diffusion.min_snr_weight(timesteps, min_snr_gamma)
    if noise_power:
        mse = mse * diffusion.noise_weight(timesteps, noise_power)
    vb = diffusion.variational_bound(output, x_0, x_t, timesteps)
    return {"mse": mse, "vb": vb, "loss": mse + vb}
