"""Real data that scikit-learn ships, split and standardised; nothing is downloaded.

A seed fixes one order of all the points, in which every prefix holds the classes in the proportions of the whole. The
training set is the beginning of that order and the test set its end, read backwards. So the two are disjoint, more
training points keep the earlier ones in their places, and the test set does not depend on the training set.

All statistics of the standardisation are those of the training set; nothing is clipped. They make the mean of
|x|^2 / inputs on the training set 1, or the fraction of features that vary there. As they change with the training
set, so do the numbers (not the identity) of the earlier points when it grows.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fieldprob.tasks.arguments import count, generator
from fieldprob.tasks.base import Task


def digits(
    classes: Iterable[int] = (0, 1), train: int = 100, test: int = 50, *, noise_variance: Any = 0.01, seed: Any = 0
) -> Task:
    """Handwritten digits of 8 x 8 pixels, about 180 of each class.

    Inputs: each pixel minus its training mean, all divided by one number, the root mean training variance of the
    pixels. They share a unit, and a scale for each would blow up pixels that are nearly always blank. Pixels that are
    blank on the whole training set are zero there. The mean of |x|^2 / inputs over the training set is 1.

    Targets: for two classes -1 (the first) and +1 (the second), one output; for more, one output per class, in the
    order given: 1 - 1/classes for the class of the point and -1/classes for the others.

    Args:
        classes: two or more different digits.
        train, test: number of training points (at least 2) and of test points.
        noise_variance: of the likelihood; as in `Task`.
        seed: an int or a JAX key.

    Raises:
        TypeError or ValueError: arguments that do not fit, or more points than there are.

    Source: scikit-learn's `load_digits` (UCI, Optical Recognition of Handwritten Digits, test part).

    >>> digits(classes=(0, 1), train=100, test=50)
    Task 'digits 0 vs 1': 100 points, 64 inputs, 1 output, 50 test points, noise variance 0.01
    """
    from sklearn.datasets import load_digits

    classes = _classes(classes)
    images, labels = _load(load_digits)
    chosen = np.isin(labels, classes)
    images, labels = images[chosen], np.searchsorted(np.sort(classes), labels[chosen])
    labels = np.argsort(classes)[labels]  # position of each label in `classes`
    name = f"digits {' vs '.join(map(str, classes))}" if len(classes) == 2 else f"digits {', '.join(map(str, classes))}"
    targets = _class_targets(labels, len(classes))
    return _split_task(name, images, targets, labels, train, test, noise_variance, seed, common_scale=True)


def breast_cancer(train: int = 200, test: int = 100, *, noise_variance: Any = 0.01, seed: Any = 0) -> Task:
    """Breast tumours described by 30 real features: 212 malignant (y = -1) and 357 benign (y = +1).

    Inputs: each feature minus its training mean, over its training standard deviation; a feature that is constant on
    the training set is zero everywhere.

    Args:
        train, test, noise_variance, seed: as in `digits`.

    Raises:
        TypeError or ValueError: arguments that do not fit, or more points than there are.

    Source: scikit-learn's `load_breast_cancer` (UCI, Breast Cancer Wisconsin, Diagnostic).

    >>> breast_cancer()
    Task 'breast cancer': 200 points, 30 inputs, 1 output, 100 test points, noise variance 0.01
    """
    from sklearn.datasets import load_breast_cancer

    X, labels = _load(load_breast_cancer)
    return _split_task("breast cancer", X, _class_targets(labels, 2), labels, train, test, noise_variance, seed)


def diabetes(train: int = 200, test: int = 100, *, noise_variance: Any = 0.5, seed: Any = 0) -> Task:
    """Progression of diabetes after one year, from 10 features of 442 patients.

    Inputs as in `breast_cancer`. Targets minus their training mean, over their training standard deviation: noise
    variance and losses are fractions of the variance of the training targets. The default noise variance is about
    what linear regression leaves unexplained.

    Args:
        train, test, noise_variance, seed: as in `digits`.

    Raises:
        TypeError or ValueError: arguments that do not fit, or more points than there are.

    Source: scikit-learn's `load_diabetes`, unscaled (Efron, Hastie, Johnstone, Tibshirani, Annals of Statistics 2004).

    >>> diabetes()
    Task 'diabetes': 200 points, 10 inputs, 1 output, 100 test points, noise variance 0.5
    """
    from sklearn.datasets import load_diabetes

    X, y = _load(load_diabetes, scaled=False)
    return _split_task(
        "diabetes", X, y, np.zeros(len(y), int), train, test, noise_variance, seed, standardise_targets=True
    )


def stratified_order(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A random order of all points, every prefix of which holds the classes nearly in the proportions of the whole.

    The points of a class of size n, shuffled, take the places (r + 1/2) / n for r = 0..n-1, and all are sorted by
    place: up to any place, a class misses its share by at most half a point.
    """
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable")


def standardise(train: np.ndarray, test: np.ndarray, *, common_scale: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Both sets minus the column means of `train`, over its column standard deviations or their root mean square.

    With a scale per column, a column that is constant in `train` becomes zero in both.
    """
    mean = train.mean(axis=0)
    varies = train.max(axis=0) > train.min(axis=0)  # exact, unlike a comparison of a rounded variance with zero
    variance = np.where(varies, train.var(axis=0), 0.0)
    if common_scale:
        scale = np.full_like(mean, 1.0 / np.sqrt(variance.mean())) if varies.any() else np.zeros_like(mean)
    else:
        scale = np.where(varies, 1.0 / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
    return (train - mean) * scale, (test - mean) * scale


def _load(loader: Callable[..., Any], **options: Any) -> tuple[np.ndarray, np.ndarray]:
    X, y = loader(return_X_y=True, **options)
    return np.asarray(X), np.asarray(y)


def _split_task(
    name: str,
    X: np.ndarray,
    y: np.ndarray,
    labels: np.ndarray,
    train: int,
    test: int,
    noise_variance: Any,
    seed: Any,
    *,
    common_scale: bool = False,
    standardise_targets: bool = False,
) -> Task:
    train, test = count("train", train, minimum=2), count("test", test, minimum=0)
    if train + test > len(X):
        raise ValueError(
            f"train + test = {train} + {test} points, but {name} has {len(X)}: ask for at most {len(X)} together."
        )
    order = stratified_order(labels, generator(seed))
    chosen, held_out = order[:train], order[::-1][:test]
    X_train, X_test = standardise(X[chosen], X[held_out], common_scale=common_scale)
    y_train, y_test = y[chosen], y[held_out]
    if standardise_targets:
        y_train, y_test = standardise(y_train, y_test)
    if not test:
        return Task(X_train, y_train, noise_variance, name=name)
    return Task(X_train, y_train, noise_variance, X_test, y_test, name=name)


def _classes(classes: Any) -> list[int]:
    try:
        chosen = [count("classes", label, minimum=0) for label in classes]
    except TypeError:
        raise TypeError(f"classes = {classes!r} is not a sequence of digits: pass e.g. (0, 1).") from None
    if len(chosen) < 2 or len(set(chosen)) < len(chosen) or max(chosen) > 9:
        raise ValueError(f"classes = {tuple(chosen)} must be two or more different digits from 0 to 9, e.g. (0, 1).")
    return chosen


def _class_targets(labels: np.ndarray, classes: int) -> np.ndarray:
    """-1 and +1 for two classes, (points,); centred one-hot vectors for more, (points, classes)."""
    return 2.0 * labels - 1.0 if classes == 2 else np.eye(classes)[labels] - 1.0 / classes
