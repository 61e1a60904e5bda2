"""The solvers, one file each, all with one signature:

    name(measured, prior, *, rng, settings=None, progress=None) -> Solution

None of them knows what the network predicts: they call `prior(x, t)` and ask its path for
`alpha(t)` and `sigma(t)`. `medsci.inverse` has them by name.
"""
