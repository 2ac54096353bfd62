"""Corpora that are private in turn, each attacked from the others."""

from collections.abc import Sequence

from fedser.client.corpora import overview as check
from fedser.client.corpora.build import build_corpus, named_corpus
from fedser.client.corpora.published import DOCS
from fedser.common.errors import UserError

STUDY = ("iemocap", "msp_improv", "crema_d")
"""Of the study of 2022."""
OPEN = ("ravdess", "nemo", "emodb")
"""To be had by anybody."""


def corpora_below(data_root: str) -> list[str]:
    """Return the corpora of the study that are below a folder, or the open ones if more of them.

    Parameters
    ----------
    data_root : str
        Folder that holds corpora by name, in their published layouts.
    """
    there = [[name for name in names if not missing(name, data_root)] for names in (STUDY, OPEN)]
    return max(there, key=len)  # the study's where there are as many of either


def others(corpora: Sequence[str], private: str) -> list[str]:
    """Return the corpora that the adversary holds while one of them is private."""
    return [name for name in corpora if name != private]


def missing(name: str, data_root: str) -> str | None:
    """Say in one line what of a corpus is missing below a folder and how to come by it.

    Parameters
    ----------
    name : str
        In ``conf/corpus``.

    Returns
    -------
    str or None
        None where all its parts are there, or where it is not a published corpus.
    """
    corpus = build_corpus(named_corpus("corpora", name, data_root), data_root)
    return next(filter(None, map(check.absence, check.published(corpus))), None)


def absent(data_root: str, chosen: Sequence[str]) -> list[str]:
    """Return a line for each corpus of the study, or of those it was chosen among, that is missing.

    Raises
    ------
    UserError
        If nothing could be chosen.
    """
    among = STUDY if set(chosen) & set(STUDY) else (*STUDY, *OPEN)
    lines = [line for name in among if (line := missing(name, data_root))]
    if not chosen:
        raise UserError(
            f"none of {', '.join(among)} is below data_root={data_root}: set data_root, or "
            "FEDSER_DATA_ROOT, to a folder that holds some of them by name, or "
            f"corpora=[NAME,NAME] to others; {DOCS} tells where they come from"
        )
    return lines


def check_rotation(corpora: Sequence[str], data_root: str, attacked: bool) -> None:
    """Refuse corpora that cannot take turns.

    Parameters
    ----------
    attacked : bool
        Whether each is to be attacked from the others.

    Raises
    ------
    UserError
        If one is missing, or none is left to attack from.
    """
    for name in corpora:
        if line := missing(name, data_root):
            raise UserError(line)
    if attacked and len(set(corpora)) < 2:
        raise UserError(
            f"corpora=[{','.join(corpora)}]: each is attacked from the others, so that there must "
            "be two or more; add one, or set shadow"
        )
