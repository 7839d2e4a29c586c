"""Intervals and tests against a well-kept library."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap

from edge.measure.statistics import holm, may_be_chance, mcnemar, paired_bootstrap, paired_interval, wilson


@given(st.integers(1, 50_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy(case: tuple[int, int]) -> None:
    right, n = case
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("right", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(right: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(right, n)


pairs = st.tuples(st.integers(0, 3000), st.integers(0, 3000))
few = st.tuples(st.integers(0, 12), st.integers(0, 12))


@given(st.one_of(pairs, few))
def test_mcnemar_equals_the_exact_binomial_test(case: tuple[int, int]) -> None:
    lost, gained = case
    expected = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(expected, rel=1e-8, abs=1e-200)  # scipy underflows before


@pytest.mark.parametrize(
    ("lost", "gained", "p"), [(0, 0, 1.0), (1, 0, 1.0), (0, 1, 1.0), (5, 5, 1.0), (6, 0, 2 / 64), (0, 4, 1 / 8)]
)
def test_mcnemar_by_hand(lost: int, gained: int, p: float) -> None:
    assert mcnemar(lost, gained) == pytest.approx(p)


@pytest.mark.parametrize(
    ("lost", "gained", "n"), [(14, 13, 500), (30, 4, 500), (3, 0, 60), (0, 0, 10), (1, 0, 1), (40, 60, 2000)]
)
def test_the_interval_is_scipys_bootstrap_over_single_images(lost: int, gained: int, n: int) -> None:
    """Drawing counts is drawing images: scipy resamples the images themselves."""
    changes = np.array([-1] * lost + [1] * gained + [0] * (n - lost - gained), float)
    ours = paired_bootstrap(lost, gained, n)
    if np.ptp(changes) == 0:  # scipy has no answer here
        assert ours == (changes.mean(), changes.mean())
        return
    rng = np.random.default_rng(1)
    expected = bootstrap((changes,), np.mean, n_resamples=9999, method="percentile", rng=rng)
    low, high = expected.confidence_interval
    # Two independent sets of draws: quantiles differ by a few hundredths of a standard error.
    assert ours == pytest.approx((low, high), abs=0.08 * expected.standard_error + 1 / n)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_the_interval_holds_the_change_and_mirrors(case: tuple[int, int, int]) -> None:
    n, lost, gained = case
    gained = min(gained, n - lost)
    low, high = paired_bootstrap(lost, gained, n)
    assert -1 <= low <= (gained - lost) / n <= high <= 1
    assert paired_bootstrap(lost, gained, n) == (low, high)


@pytest.mark.parametrize(("lost", "gained", "n"), [(0, 0, 0), (-1, 0, 5), (3, 3, 5)])
def test_impossible_pairs_are_refused(lost: int, gained: int, n: int) -> None:
    with pytest.raises(ValueError, match="lost"):
        paired_bootstrap(lost, gained, n)
    if lost < 0:
        with pytest.raises(ValueError, match="lost"):
            mcnemar(lost, gained)


@given(st.one_of(few, st.tuples(st.integers(0, 200), st.integers(0, 200))), st.integers(0, 1))
def test_the_interval_agrees_with_the_exact_test(case: tuple[int, int], seed: int) -> None:
    """The bootstrap alone excludes 0 where p is 0.06: a change "from 0.2 to 2.4 points, within noise"."""
    (lost, gained), n = case, 500
    low, high = paired_interval(lost, gained, n, seed=seed)
    assert (low <= 0 <= high) is may_be_chance(mcnemar(lost, gained))
    assert low <= (gained - lost) / n <= high
    wide, bootstrap_low, bootstrap_high = may_be_chance(mcnemar(lost, gained)), *paired_bootstrap(lost, gained, n)
    if wide and seed == 0:
        assert (low, high) == (min(bootstrap_low, 0), max(bootstrap_high, 0))


@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm_by_hand(values: list[float]) -> None:
    found = holm(values)
    order = sorted(range(len(values)), key=lambda i: values[i])
    for rank, i in enumerate(order):
        worst = max((len(values) - k) * values[order[k]] for k in range(rank + 1))
        assert found[i] == pytest.approx(min(1.0, worst))
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
