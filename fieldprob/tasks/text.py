"""Sequences of words from English text that ships with Python: what a transformer's copying head has to learn.

A context is a window of consecutive tokens; the target is the token at one of its positions, the source. The vocabulary
is that of the most frequent words and one further token, 0, for every other word.
"""

import re
from collections import Counter
from functools import cache
from typing import Any

import numpy as np

from fieldprob.tasks.arguments import count, generator
from fieldprob.tasks.base import Task


def text_windows(context: int, vocabulary: int, text: str | None = None) -> np.ndarray:
    """All windows of `context` consecutive tokens of a text, as integers 0 ... vocabulary - 1, (windows, context).

    Args:
        context: tokens in a window.
        vocabulary: number of tokens: the `vocabulary` - 1 most frequent words, 1 being the most frequent, and 0 for
            all others.
        text: the help topics of Python's `pydoc_data.topics` unless given, whose wording depends on its version.

    Raises:
        TypeError, ValueError: arguments that are no such numbers; a text with fewer words than the context, or fewer
            different ones than the vocabulary less one.

    >>> text_windows(3, 2, "the cat and the dog and the bird").tolist()[:2]
    [[1, 0, 0], [0, 0, 1]]
    """
    context, vocabulary = count("context", context), count("vocabulary", vocabulary, minimum=2)
    if text is not None and not isinstance(text, str):
        raise TypeError(f"text is a {type(text).__name__}: give a string.")
    words = _words(_topics() if text is None else text)
    ranking = [word for word, _ in Counter(words).most_common(vocabulary - 1)]
    if len(ranking) < vocabulary - 1:
        raise ValueError(f"vocabulary = {vocabulary}, but the text has {len(ranking)} different words: ask for fewer.")
    if len(words) < context:
        raise ValueError(f"context = {context}, but the text has {len(words)} words: give a longer text.")
    index = {word: i for i, word in enumerate(ranking, start=1)}
    tokens = np.array([index.get(word, 0) for word in words])
    return np.lib.stride_tricks.sliding_window_view(tokens, context)


def copying(
    context: int = 8,
    vocabulary: int = 20,
    train: int = 400,
    *,
    source: int | None = None,
    noise_variance: Any = 0.01,
    text: str | None = None,
    seed: Any = 0,
) -> Task:
    """Copying a token of the context: one-hot of the token at the source, less 1/vocabulary, for windows of a text.

    Args:
        context, vocabulary, text: as in `text_windows`.
        train: how many windows, drawn without replacement.
        source: position that is copied, 0 ... context - 1; the last but one, the token before the last, unless given.
        noise_variance: of the likelihood; as in `Task`.
        seed: an int or a JAX key.

    Returns:
        A `Task` whose X (points, context) holds tokens as floats and whose y is (points, vocabulary).

    Raises:
        TypeError, ValueError: as `text_windows`; more windows than there are; a source outside the context.

    >>> task = copying(context=4, vocabulary=10, train=30)
    >>> task
    Task 'copying': 30 points, 4 inputs, 10 outputs, noise variance 0.01
    """
    windows = text_windows(context, vocabulary, text)
    context = windows.shape[1]
    source = max(context - 2, 0) if source is None else count("source", source, minimum=0)
    if source >= context:
        raise ValueError(f"source = {source} is not in the context: give a position of 0 ... {context - 1}.")
    train = count("train", train)
    if train > len(windows):
        raise ValueError(f"train = {train}, but the text has {len(windows)} windows: ask for fewer.")
    chosen = windows[np.sort(generator(seed).choice(len(windows), train, replace=False))]
    return Task(chosen, np.eye(vocabulary)[chosen[:, source]] - 1 / vocabulary, noise_variance, name="copying")


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


@cache
def _topics() -> str:
    from pydoc_data.topics import topics

    return "\n".join(topics.values())
