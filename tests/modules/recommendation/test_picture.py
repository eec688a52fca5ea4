"""ROC curve and calibration against scikit-learn and by hand."""

import numpy as np
from sklearn import metrics

from modules.recommendation.picture import calibration, roc_curve, save_plots


def rows(count=4000):
    rng = np.random.default_rng(1)
    score = rng.random(count).round(2)  # with ties
    return score, (rng.random(count) < score).astype(np.uint8)


def test_roc_curve_equals_scikit_learns():
    score, label = rows()
    others, clicks = roc_curve(score, label)
    expected = metrics.roc_curve(label, score, drop_intermediate=False)
    np.testing.assert_allclose(others, expected[0])
    np.testing.assert_allclose(clicks, expected[1])
    assert abs(np.trapezoid(clicks, others) - metrics.roc_auc_score(label, score)) < 1e-12


def test_a_calibrated_prediction_is_on_the_diagonal():
    predicted, observed = calibration(*rows(40_000))
    assert len(predicted) == 20
    assert (np.diff(predicted) > 0).all()
    np.testing.assert_allclose(observed, predicted, atol=0.04)
    predicted, observed = calibration(np.full(100, 0.9), np.zeros(100))
    assert predicted.min() > 0.8 > observed.max()


def test_plots_are_drawn(tmp_path):
    save_plots(tmp_path / "predictions.png", *rows(), area=0.8)
    assert (tmp_path / "predictions.png").read_bytes().startswith(b"\x89PNG")
