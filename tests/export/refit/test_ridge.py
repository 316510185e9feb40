"""The closed form against scikit-learn's, and the mix of two layers against its own outputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import Ridge

from student_clap.export.refit.ridge import Layer, Moments, mix, ridge

Array = npt.NDArray[np.float64]


def rows(n: int = 300, n_features: int = 24, n_targets: int = 7) -> tuple[Array, Array]:
    """Features far from 0 and of unlike scales, and targets that depend on them."""
    rng = np.random.default_rng(5)
    x = rng.normal(3.0, rng.uniform(0.1, 4.0, n_features), (n, n_features))
    y = x @ rng.normal(size=(n_features, n_targets)) + rng.normal(0, 2.0, (n, n_targets)) - 11.0
    return x, y


def sums(x: Array, y: Array | None = None, at_once: int = 37) -> Moments:
    found = Moments(x.shape[1], 0 if y is None else y.shape[1])
    for begin in range(0, len(x), at_once):
        part = slice(begin, begin + at_once)
        found.add(x[part], None if y is None else y[part])
    return found


@pytest.mark.parametrize("n", [300, 10])  # more rows than features, and fewer
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_the_closed_form_is_scikit_learn_s(n: int, strength: float) -> None:
    x, y = rows(n)
    alpha = strength * np.square(x - x.mean(axis=0)).sum() / x.shape[1]
    expected = Ridge(alpha=alpha, fit_intercept=True).fit(x, y)
    found = ridge(sums(x, y), strength)
    np.testing.assert_allclose(found.weight, expected.coef_, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.bias, expected.intercept_, rtol=1e-8)


def test_rows_may_come_one_by_one_or_not_at_all() -> None:
    x, y = rows()
    at_once, singly = ridge(sums(x, y, 300), 0.1), ridge(sums(x, y, 1), 0.1)
    np.testing.assert_allclose(singly.weight, at_once.weight, rtol=1e-8, atol=1e-10)
    more = sums(x, y)
    more.add(x[:0], y[:0])
    assert more.rows == 300


def test_a_layer_s_length_is_that_of_its_outputs() -> None:
    x, _ = rows()
    layer = Layer(np.random.default_rng(0).normal(size=(5, 24)), np.arange(5.0))
    outputs = x @ layer.weight.T + layer.bias
    assert layer.rms_length(sums(x)) == pytest.approx(np.sqrt(np.square(outputs).sum(axis=1).mean()))


def test_a_mix_is_one_layer_that_answers_with_both() -> None:
    x, _ = rows()
    rng = np.random.default_rng(1)
    new, old = (Layer(scale * rng.normal(size=(5, 24)), rng.normal(size=5)) for scale in (1.0, 30.0))
    answers = {}
    for name, layer in (("new", new), ("old", old)):
        outputs = x @ layer.weight.T + layer.bias
        answers[name] = outputs / np.sqrt(np.square(outputs).sum(axis=1).mean())
    mixed = mix(new, old, 0.25, sums(x))
    np.testing.assert_allclose(x @ mixed.weight.T + mixed.bias, 0.25 * answers["new"] + 0.75 * answers["old"])
    alone = mix(new, old, 1.0, sums(x))
    np.testing.assert_allclose(x @ alone.weight.T + alone.bias, answers["new"])


@pytest.mark.parametrize("x", [np.zeros((0, 4)), np.ones((9, 4)), np.full((9, 4), np.nan)])
def test_rows_that_are_all_alike_are_refused(x: Array) -> None:
    with pytest.raises(ValueError, match="nothing to fit"):
        ridge(sums(x, np.ones((len(x), 2))), 0.1)
