"""Extract features of recordings in parallel and cache them by the content of the files."""

import warnings
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from joblib import delayed
from tqdm import tqdm

from fedser.client.features.audio import AudioError, read_audio, seconds
from fedser.client.features.base import Extractor
from fedser.client.features.digests import file_digest, sample_digests
from fedser.client.features.frames import pad
from fedser.common.arrays import Floats
from fedser.common.cache import filling, read_array, write_array
from fedser.common.errors import UserError, brief
from fedser.common.processes import side_by_side
from fedser.common.threads import cores

Job = tuple[Path, Path]
"""A recording and the cache file for its features."""


@dataclass(frozen=True)
class Extracted:
    """Features of the recordings that could be read.

    Attributes
    ----------
    values : ndarray of float32, shape (n, d) or (n, T, d)
        One vector per recording, or T padded frames: see `client.features.frames`.
    kept : list of int
        Position of each row in the given paths.
    digests : list of str
        SHA-256 of each row's samples: see `client.features.digests.sample_digests`.
    skipped : list of Path
        Unusable recordings; empty unless `skip_bad` is set.
    """

    values: Floats
    kept: list[int]
    digests: list[str]
    skipped: list[Path]


def extract(
    extractor: Extractor,
    paths: Sequence[Path],
    cache_dir: Path,
    *,
    skip_bad: bool = False,
    workers: int | None = None,
) -> Extracted:
    """Read features from the cache; extract missing features in parallel processes.

    The key of the cache is the digest of the audio file: a renamed file is not extracted again,
    a changed file is.

    Raises
    ------
    UserError
        If a recording is unreadable, empty or has non-finite features and `skip_bad` is not set,
        or if no recording is usable.
    """
    # Workers may have another working folder, so paths must be absolute.
    paths, folder = [p.absolute() for p in paths], cache_dir.absolute() / "features" / extractor.key
    digests = [_digest(path, skip_bad) for path in paths]
    first = dict(zip(reversed(digests), reversed(paths), strict=True))
    first.pop("", None)
    with filling(cache_dir):
        samples, reasons = sample_digests(first, cache_dir.absolute())
        entries = {digest: folder / digest[:2] / f"{digest}.npy" for digest in samples}
        known = {d: array for d, e in entries.items() if (array := read_array(e)) is not None}
        missing = [(first[d], entry) for d, entry in entries.items() if d not in known]
        reasons += _extract_missing(extractor, missing, workers or cores())
    bad = {path: reason for path, reason in sorted(reasons) if reason}
    failed = {"", *(d for d, p in first.items() if p in bad)}
    if bad and not skip_bad:
        path, reason = next(iter(bad.items()))
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise UserError(f"{path}: {reason}{more}: repair it, or set corpus.on_bad_file=skip")
    kept = [i for i, d in enumerate(digests) if d not in failed]
    if not kept:
        raise UserError(
            f"{paths[0] if paths else 'corpus'}: no recording could be read: check corpus.root"
        )
    new = dict.fromkeys(digests[i] for i in kept if digests[i] not in known)
    stored = known | {digest: np.load(entries[digest], allow_pickle=False) for digest in new}
    rows = [stored[digests[i]] for i in kept]
    return Extracted(
        values=np.stack(rows) if extractor.frames is None else pad(rows, extractor.frames),
        kept=kept,
        digests=[samples[digests[i]] for i in kept],
        skipped=[p for p, d in zip(paths, digests, strict=True) if d in failed],
    )


def _digest(path: Path, skip_bad: bool) -> str:
    """Return the digest of a file, or an empty text if it is unreadable and may be skipped."""
    try:
        return file_digest(path)
    except (AudioError, OSError) as error:
        if skip_bad:
            return ""
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: {reason}: check corpus.root") from error


def _extract_missing(
    extractor: Extractor, jobs: Sequence[Job], workers: int
) -> list[tuple[Path, str]]:
    """Fill the cache; return each recording with the reason of its failure, empty on success."""
    if not jobs:
        return []
    batches = _batches(jobs, extractor.batch_size)
    processes = min(workers, len(batches)) if extractor.side_by_side else 1
    tasks = (delayed(_extract_batch)(extractor, batch) for batch in batches)
    results = list[tuple[Path, str]]()
    try:
        with tqdm(desc="features", total=len(jobs), unit="file", mininterval=0.5) as bar:
            for done in side_by_side(tasks, processes):
                results += done
                bar.update(len(done))
    except BrokenProcessPool as error:
        raise UserError(
            f"{batches[0][0][0]}: a feature worker died, perhaps for lack of memory: retry"
        ) from error
    return results


def _batches(jobs: Sequence[Job], size: int) -> list[Sequence[Job]]:
    """Return batches of recordings of similar length, the longest first."""
    ordered = sorted(jobs)
    if size > 1:
        ordered.sort(key=lambda job: seconds(job[0]), reverse=True)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _extract_batch(extractor: Extractor, jobs: Sequence[Job]) -> list[tuple[Path, str]]:
    """Extract a batch at once; if it fails, extract one by one to find the bad recording."""
    try:
        recordings = [read_audio(source, extractor.sampling_rate) for source, _ in jobs]
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # openSMILE warns about recordings shorter than a window
            found = extractor(recordings)
    except UserError:
        raise
    except Exception as error:  # openSMILE and the encoders raise various types
        if len(jobs) > 1:
            return [result for job in jobs for result in _extract_batch(extractor, [job])]
        reason = brief(error) if isinstance(error, AudioError) else f"no features ({brief(error)})"
        return [(jobs[0][0], reason)]
    return [
        (source, _store(features, target))
        for features, (source, target) in zip(found, jobs, strict=True)
    ]


def _store(features: Floats, target: Path) -> str:
    """Write features into the cache; return the reason if they are unusable."""
    if not np.isfinite(features).all():
        return "features are not finite (silent or too short?)"
    write_array(target, features.astype(np.float32))
    return ""
