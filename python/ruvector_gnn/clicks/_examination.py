"""Examination by place from the clicks of shuffled answers, by Poisson regression."""

from __future__ import annotations

import numpy as np

from ruvector_gnn.clicks._evidence import Floats
from ruvector_gnn.clicks._ragged import Int64s

LEAST = 1e-4
"""Examination is at least this, so that no click is impossible."""

# Examination 1 / place before any click: the mean of a weak normal prior, in the order of the basis.
_PRIOR_MEAN, _PRIOR_PRECISION = np.array([1.0, 0.0]), np.array([1.0, 4.0])
# 99% and 99.9% points of the normal distribution, for likelihood-ratio tests.
_SECOND_TERM = 2.576**2
_FREE = 3.09
_STEPS = 50


def examination_of(clicks: Floats, lengths: Int64s) -> Floats:
    r"""Return the examination of places from the clicks of answers in random order.

    In a shuffled answer each row stands at each place equally often, so the expected clicks at place
    :math:`r` of the answers of length :math:`L` are :math:`\mu_L \theta_r`. This is a Poisson regression with
    an intercept for each length; given the intercepts, clicks are multinomial over places:

    .. math:: \ell = \sum_L \sum_{r \le L} k_{Lr} \log \frac{\theta_r}{\sum_{s \le L} \theta_s}

    :math:`\theta` is a power of the place, :math:`r^{-\eta}`; where a likelihood-ratio test at 1% asks for
    it, a power times an exponential, :math:`r^{-\eta} e^{-\kappa (r - 1)}`; where a test at 0.1% rejects that
    too, one free number for each place.

    Parameters
    ----------
    clicks : ndarray of float, shape (groups, depth)
        Clicks at each place, summed over the answers of each length.
    lengths : ndarray of int, shape (groups,)
        Length of the answers of each group.

    Returns
    -------
    ndarray of float, shape (depth,)
        :math:`\theta_r / \theta_1`, at most 1.
    """
    depth = clicks.shape[1]
    inside = (np.arange(depth) < lengths[:, np.newaxis]).astype(np.float64)
    places = np.arange(1, depth + 1)
    basis = np.stack([-np.log(places), 1.0 - places], axis=1)
    power, both = (_regression(clicks, inside, basis[:, :terms]) for terms in (1, 2))
    if 2 * (_likelihood(clicks, inside, both) - _likelihood(clicks, inside, power)) < _SECOND_TERM:
        return bounded(power)
    free = _free(clicks, inside, both)
    gained = 2 * (_likelihood(clicks, inside, free) - _likelihood(clicks, inside, both))
    return bounded(free if gained > _chi_squared(max(1, int(lengths.max(initial=0)) - 3)) else both)


def bounded(examination: Floats) -> Floats:
    """Return examination relative to the first place, from `LEAST` to 1."""
    return np.asarray(np.clip(examination / max(examination[0], LEAST), LEAST, 1.0))


def _likelihood(clicks: Floats, inside: Floats, examination: Floats) -> float:
    shares = examination / (inside @ examination)[:, np.newaxis]
    return float(np.sum(clicks * np.log(np.maximum(shares, 1e-300))))


def _regression(clicks: Floats, inside: Floats, basis: Floats) -> Floats:
    """Newton's method for `theta = exp(basis @ parameters)`; the log-likelihood is concave."""
    terms = basis.shape[1]
    mean, precision = _PRIOR_MEAN[:terms], _PRIOR_PRECISION[:terms]
    totals, found = clicks.sum(axis=1), clicks.sum(axis=0) @ basis
    parameters = mean.copy()
    for _ in range(_STEPS):
        theta = np.exp(np.clip(basis @ parameters, -50, 50))
        shares = inside * theta / (inside @ theta)[:, np.newaxis]
        expected = shares @ basis
        gradient = found - totals @ expected - precision * (parameters - mean)
        second = np.einsum("gr,ri,rj->ij", totals[:, np.newaxis] * shares, basis, basis)
        second -= np.einsum("g,gi,gj->ij", totals, expected, expected)
        step = np.linalg.solve(second + np.diag(precision), gradient)
        parameters += np.clip(step, -0.5, 0.5)
        if np.abs(step).max() < 1e-10:
            break
    return np.asarray(np.exp(np.clip(basis @ parameters, -50, 50)))


def _free(clicks: Floats, inside: Floats, start: Floats) -> Floats:
    """One number for each place; places without shuffled answers keep those of `start`."""
    theta, totals, found = start.copy(), clicks.sum(axis=1), clicks.sum(axis=0)
    seen = inside.any(axis=0)
    # Half a click for each place, so that a place without one is not thought to be never examined.
    prior = 0.5 * start / start.mean()
    for _ in range(_STEPS):
        exposure = (totals / (inside @ theta)) @ inside + 0.5 / start.mean()
        theta = np.where(seen, (found + prior) / exposure, theta)
        theta *= start[0] / theta[0]
    return np.asarray(theta)


def _chi_squared(freedom: int) -> float:
    """Return the 99.9% point of the chi-squared distribution (Wilson & Hilferty 1931)."""
    spread = 2 / (9 * freedom)
    return float(freedom * (1 - spread + _FREE * np.sqrt(spread)) ** 3)
