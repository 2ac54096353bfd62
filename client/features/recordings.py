"""Which recordings are the same, whatever their files are called and however they are stored."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedser.client.features.audio import AudioError, read_mono, refuse_devices
from fedser.common.cache import read_array, write_array
from fedser.common.errors import brief
from fedser.common.threads import cores, spread

PIECE = 2**20
"""Bytes of a file that are read at a time."""


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises
    ------
    AudioError
        If it is not a regular file.
    OSError
        If it cannot be read.
    """
    refuse_devices(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def sample_digests(
    files: Mapping[str, Path], cache: Path
) -> tuple[dict[str, str], list[tuple[Path, str]]]:
    """Return the SHA-256 of each recording's mixed samples and sampling rate.

    Copies of a recording have it in common, also if one is FLAC and the other WAV.

    Parameters
    ----------
    files : mapping of str to Path
        By the digest of the file, under which the result is kept.
    cache : Path
        Folder for results.

    Returns
    -------
    digests : dict of str to str
        By the digest of the file.
    bad : list of (Path, str)
        Files that are no recordings, and why.
    """

    def one(digest: str) -> tuple[str, str]:
        entry = cache / "samples" / digest[:2] / f"{digest}.npy"
        if (kept := read_array(entry)) is None:
            try:
                mono, rate = read_mono(files[digest])
            except AudioError as error:
                return "", brief(error)
            content = rate.to_bytes(8, "little") + np.ascontiguousarray(mono, "<f4").tobytes()
            kept = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
            write_array(entry, kept)
        return kept.tobytes().hex(), ""

    found = dict(zip(files, spread(cores(), one, files), strict=True))
    return (
        {digest: samples for digest, (samples, _) in found.items() if samples},
        [(files[digest], reason) for digest, (_, reason) in found.items() if reason],
    )
