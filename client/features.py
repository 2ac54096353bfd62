"""Utterance-level features, extracted in parallel and cached by content."""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from tqdm import tqdm

from client.errors import UserError, check_choice

if TYPE_CHECKING:
    import opensmile

Floats = npt.NDArray[np.float32]


class Extractor(Protocol):
    """Turns one recording into one vector. Must be picklable: it travels to worker processes."""

    @property
    def key(self) -> str:
        """Name of everything that determines the values: the folder of the cache."""
        ...

    def __call__(self, path: Path) -> Floats:
        """Return a vector of shape (d,)."""
        ...


@dataclass(frozen=True)
class OpenSmile:
    """Functionals of openSMILE (Eyben et al., 2010), such as emobase with 988 of them.

    Parameters
    ----------
    feature_set : str
        A name of `opensmile.FeatureSet`.
    sampling_rate : int
        Rate in Hz to which recordings are resampled, so that corpora compare.
    """

    feature_set: str
    sampling_rate: int

    @cached_property
    def key(self) -> str:
        """Feature set, sampling rate and package version."""
        return f"{self.feature_set}-{self.sampling_rate}-opensmile{version('opensmile')}"

    def __call__(self, path: Path) -> Floats:
        """Extract the functionals of one recording, channels mixed down."""
        import soundfile

        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        if len(samples) == 0:
            raise ValueError("no samples")
        if not np.isfinite(samples).all():  # openSMILE would make numbers of it
            raise ValueError("samples are not finite")
        smile = _smile(self.feature_set, self.sampling_rate)
        return np.asarray(smile(samples.T, rate).reshape(-1), dtype=np.float32)


@cache
def _smile(feature_set: str, sampling_rate: int) -> "opensmile.Smile":
    # Imported here: pandas and openSMILE's library cost two seconds that a cached run saves.
    import opensmile

    check_choice("features.feature_set", feature_set, opensmile.FeatureSet.__members__)
    return opensmile.Smile(
        feature_set=opensmile.FeatureSet[feature_set],
        feature_level=opensmile.FeatureLevel.Functionals,
        sampling_rate=sampling_rate,
        resample=True,
        mixdown=True,
    )


@dataclass(frozen=True)
class Extracted:
    """Features of the recordings that could be read.

    Attributes
    ----------
    values : ndarray of float32, shape (n, d)
    kept : list of int
        Position of each row among the paths that were asked for.
    digests : list of str
        SHA-256 of each row's audio file.
    skipped : list of Path
        Recordings left out, only ever filled on request.
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
    """Read features from the cache, extracting those it lacks in parallel processes.

    A vector is found by the digest of the audio bytes, so a renamed file is not extracted
    again and a changed one is.

    Raises
    ------
    UserError
        If a recording is unreadable or empty or has non-finite features, unless `skip_bad`.
    """
    folder = cache_dir / "features" / extractor.key
    digests = [_digest(path, skip_bad) for path in paths]
    first = dict(zip(reversed(digests), reversed(paths), strict=True))
    first.pop("", None)
    missing = [(p, _entry(folder, d)) for d, p in first.items() if not _entry(folder, d).exists()]
    reasons = _extract_missing(extractor, sorted(missing), workers or os.cpu_count() or 1)
    bad = {path: reason for path, reason in reasons if reason}
    failed = {"", *(d for d, p in first.items() if p in bad)}
    if bad and not skip_bad:
        path, reason = next(iter(bad.items()))
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise UserError(f"{path}: {reason}{more}; mend it or set corpus.on_bad_file=skip")
    kept = [i for i, d in enumerate(digests) if d not in failed]
    if not kept:
        raise UserError(f"{paths[0] if paths else 'corpus'}: no recording could be read")
    return Extracted(
        values=np.stack([np.load(_entry(folder, digests[i]), allow_pickle=False) for i in kept]),
        kept=kept,
        digests=[digests[i] for i in kept],
        skipped=[p for p, d in zip(paths, digests, strict=True) if d in failed],
    )


def _entry(folder: Path, digest: str) -> Path:
    return folder / digest[:2] / f"{digest}.npy"


def _digest(path: Path, skip_bad: bool) -> str:
    """Return the digest of a file, or an empty text for one that cannot be opened."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        if skip_bad:
            return ""
        raise UserError(f"{path}: {error.strerror}; check corpus.root") from error


def _extract_missing(
    extractor: Extractor, jobs: Sequence[tuple[Path, Path]], workers: int
) -> list[tuple[Path, str]]:
    """Fill the cache; return each recording with the reason it failed, or an empty string."""
    if not jobs:
        return []
    pool = Parallel(n_jobs=min(workers, len(jobs)), return_as="generator")
    results = pool(delayed(_extract_one)(extractor, *job) for job in jobs)
    try:
        return list(tqdm(results, "features", len(jobs), unit="file", mininterval=0.5))
    except BrokenProcessPool as error:
        raise UserError(f"{jobs[0][0]}: a feature worker died (out of memory?)") from error


def _extract_one(extractor: Extractor, source: Path, target: Path) -> tuple[Path, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # openSMILE warns of recordings shorter than a window
        try:
            vector = extractor(source)
        except UserError:
            raise
        except Exception as error:  # libsndfile and openSMILE raise various types
            return source, f"unreadable or empty audio ({' '.join(str(error).split())[:120]})"
    if not np.isfinite(vector).all():
        return source, "features are not finite (silent or too short?)"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        np.save(file, vector.astype(np.float32), allow_pickle=False)
    os.replace(file.name, target)
    return source, ""
