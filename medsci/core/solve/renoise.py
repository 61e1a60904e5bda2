"""The sampler of consistency functions and flow maps: jump to the data, add noise, repeat."""

__all__ = ["renoise"]

from medsci.core.solve.ancestral import Ancestral


def renoise() -> Ancestral:
    """Return the solver `x_s = alpha_s f(x_t, t) + sigma_s noise`, with new noise at every step.

    `f` is the x0 output of the denoiser. If it is the flow map of the data, x0 has the law of the
    data after any step, so every marginal is exact at any number of steps. The conditional mean in
    its place loses the posterior variance at each step: with data of variance v the end has no
    more than

        alpha^2 v^2 / (alpha^2 v + sigma^2),        alpha and sigma of the last point left,

    and that much if the state was right there. It is `Ancestral` with all of the noise replaced.

    Source: Song et al. 2023, algorithm 1, arXiv:2303.01469.
    """
    return Ancestral(1.0, rule="fraction")
