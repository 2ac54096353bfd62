"""Digests of recordings, which are equal for copies under other names or in other formats."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedser.client.features.audio import AudioError, check_regular_file, read_mono
from fedser.common.cache import read_array, write_array
from fedser.common.errors import brief
from fedser.common.threads import cores, spread

CHUNK_BYTES = 2**20
"""Number of bytes to read at once."""


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises
    ------
    AudioError
        If the file is not regular.
    OSError
        If the file cannot be read.
    """
    check_regular_file(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sample_digests(
    files: Mapping[str, Path], cache: Path
) -> tuple[dict[str, str], list[tuple[Path, str]]]:
    """Return the SHA-256 of each recording's sampling rate and averaged channels.

    Copies of a recording have the same digest, even if one is FLAC and another is WAV.

    Parameters
    ----------
    files : mapping of str to Path
        Files by file digest, which is also the key in the cache.
    cache : Path
        Cache folder for the results.

    Returns
    -------
    digests : dict of str to str
        Digest of the samples by file digest.
    bad : list of (Path, str)
        Unusable files, each with the reason.
    """

    def digest_of_samples(digest: str) -> tuple[str, str]:
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

    found = dict(zip(files, spread(cores(), digest_of_samples, files), strict=True))
    return (
        {digest: samples for digest, (samples, _) in found.items() if samples},
        [(files[digest], reason) for digest, (_, reason) in found.items() if reason],
    )
