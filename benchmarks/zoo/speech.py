"""Speech from espeak-ng (Debian's package of that name), which says the same thing the same way each time.

Needs scipy.
"""

from __future__ import annotations

import math
import subprocess
import wave

import numpy as np
from scipy.signal import resample_poly

from benchmarks.zoo.layout import root
from benchmarks.zoo.scoring import Array

RATE = 16000


def speak(text: str, voice: str, speed: int) -> Array:
    """A text as float32 samples at 16 kHz in [-1, 1].

    Args:
        voice: a voice of espeak-ng.
        speed: words per minute.
    """
    folder = root() / "data" / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{voice} {speed} {text}.wav"
    if not path.is_file():
        part = path.with_suffix(".part")
        command = ["espeak-ng", "-v", voice, "-s", str(speed), "-w", str(part), text]
        subprocess.run(command, check=True)
        part.replace(path)
    with wave.open(str(path)) as sound:
        rate = sound.getframerate()
        samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
    common = math.gcd(RATE, rate)
    pressure = samples.astype(np.float32) / 32768
    return np.asarray(resample_poly(pressure, RATE // common, rate // common), np.float32)
