"""Voice activity: balanced accuracy over frames of 32 ms, synthetic speech against noise, hum and silence.

The model streams: it carries a state and the last 64 samples from frame to frame.  Needs what
:mod:`benchmarks.zoo.speech` needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import onnxruntime as ort

from benchmarks.zoo.scoring import Array, Feed, open_session, reference, resampled
from benchmarks.zoo.speech import RATE, speak
from onnxslim.measure.metrics import MetricResult

_FRAME, _CONTEXT = 512, 64
_BLOCK = 32  # frames, one second: the frames of a second tell the same thing and are resampled together
_CLIPS = 4
_TEXTS = (
    "The quick brown fox jumps over the lazy dog",
    "Please call me back tomorrow morning",
    "Numbers one two three four five",
    "Open the window and let the fresh air in",
)
_VOICES = ("en-us", "en-gb", "en-us+f3", "de")


def inputs(name: str, n: int) -> Iterator[Feed]:
    """Frames of a clip that is not scored, evenly spread, with the states that the original has there."""
    return _spread(name, 100, n)


def held_out(name: str, n: int) -> Iterator[Feed]:
    """Frames of the first clip that is scored."""
    return _spread(name, 0, n)


def score(path: str) -> MetricResult:
    """Mean of the shares of speech and of non-speech that are told at a probability of 0.5."""
    session = open_session(path)
    blocks = []
    for clip in range(_CLIPS):
        frames, speech = _clip(clip)
        spoken = np.array([output > 0.5 for _, output in _stream(session, frames)])
        wanted = (speech > 0.9).astype(int)
        judged = (speech > 0.9) | (speech < 0.05)  # what is in between belongs to neither
        counts = np.zeros((len(frames), 2, 2))  # hits and frames, of non-speech and of speech
        counts[judged, wanted[judged], 0] = spoken[judged] == (wanted[judged] == 1)
        counts[judged, wanted[judged], 1] = 1
        blocks += [counts[start : start + _BLOCK].sum(0) for start in range(0, len(frames), _BLOCK)]
    total = int(np.sum(blocks, axis=0)[:, 1].sum())
    return resampled(blocks, _balanced_accuracy, total)


def _balanced_accuracy(blocks: Array) -> float:
    counts = blocks.sum(0)
    return float((counts[:, 0] / counts[:, 1]).mean())


def _spread(name: str, seed: int, n: int) -> Iterator[Feed]:
    frames, _ = _clip(seed)
    feeds = [feed for feed, _ in _stream(reference(name), frames)]
    return islice(feeds[:: max(1, len(feeds) // n)], n)


def _stream(session: ort.InferenceSession, frames: Array) -> Iterator[tuple[Feed, float]]:
    """The feed of each frame and the probability of speech in it."""
    names = {info.name for info in session.get_inputs()}
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros(_CONTEXT, np.float32)
    for frame in frames:
        whole = np.concatenate([context, frame])[None].astype(np.float32)
        every: Feed = {"input": whole, "state": state, "sr": np.array(RATE, np.int64)}
        feed = {key: value for key, value in every.items() if key in names}
        probability, state = session.run(None, feed)
        yield feed, float(probability.ravel()[0])
        context = frame[-_CONTEXT:]


def _clip(seed: int) -> tuple[Array, Array]:
    """Frames [n, 512] of float32, and the share of each that is speech."""
    random = np.random.RandomState(seed)
    sound, speech = [], []
    for number in range(4):
        which = (seed + number) % 4
        said = speak(_TEXTS[which], _VOICES[which], int(random.randint(130, 190)))
        said = said / (np.abs(said).max() + 1e-9) * random.uniform(0.2, 0.7)
        power = np.convolve(said**2, np.ones(1600) / 1600, "same")
        sound.append(said)
        speech.append(power > 1e-3 * (said**2).max())
        length = int(RATE * random.uniform(0.8, 1.6))
        noise = _noises(random, length)[number]
        sound.append(noise.astype(np.float32))
        speech.append(np.zeros(length, bool))
    samples, labels = np.concatenate(sound), np.concatenate(speech)
    samples = (samples + random.randn(len(samples)) * 0.002).astype(np.float32)
    whole = len(samples) // _FRAME * _FRAME
    return samples[:whole].reshape(-1, _FRAME), labels[:whole].reshape(-1, _FRAME).mean(1)


def _noises(random: np.random.RandomState, length: int) -> tuple[Array, Array, Array, Array]:
    """White noise, a hum of 120 Hz, silence, brown noise."""
    time = np.arange(length) / RATE
    white = random.randn(length) * 0.02
    hum = 0.1 * np.sin(2 * np.pi * 120 * time)
    return white, hum, np.zeros(length), random.randn(length).cumsum() * 0.002
