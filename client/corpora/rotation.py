"""Corpora that are private one after another; each one is attacked from the other corpora."""

from collections.abc import Sequence

from fedser.client.corpora.build import build_corpus, named_corpus
from fedser.client.corpora.overview import missing_parts, published_corpora
from fedser.client.corpora.published import DOCS
from fedser.common.errors import UserError

STUDY_CORPORA = ("iemocap", "msp_improv", "crema_d")
"""Corpora of the 2022 study."""
OPEN_CORPORA = ("ravdess", "nemo", "emodb")
"""Corpora that anybody can download."""


def corpora_below(data_root: str) -> list[str]:
    """Return the corpora of the study below a folder, or the open corpora if there are more.

    Parameters
    ----------
    data_root : str
        Folder with one subfolder per corpus, named as in ``conf/corpus``.
    """
    study, open_ = (
        [name for name in names if corpus_problem(name, data_root) is None]
        for names in (STUDY_CORPORA, OPEN_CORPORA)
    )
    return open_ if len(open_) > len(study) else study


def others(corpora: Sequence[str], private: str) -> list[str]:
    """Return the corpora of the adversary while `private` is the private corpus."""
    return [name for name in corpora if name != private]


def corpus_problem(name: str, data_root: str) -> str | None:
    """Return one line with the missing parts of a corpus and its source.

    Parameters
    ----------
    name : str
        Name in ``conf/corpus``.
    data_root : str
        Folder with one subfolder per corpus.

    Returns
    -------
    str or None
        None if all parts are there, or if the corpus is not a published one.
    """
    corpus = build_corpus(named_corpus("corpora", name, data_root), data_root)
    return next(filter(None, map(missing_parts, published_corpora(corpus))), None)


def missing_corpora(data_root: str, chosen: Sequence[str]) -> list[str]:
    """Return one line per missing corpus, among the corpora that `corpora_below` considered.

    Parameters
    ----------
    chosen : sequence of str
        Result of `corpora_below`. If it contains a corpus of the study, only the corpora of the
        study are reported.

    Raises
    ------
    UserError
        If `chosen` is empty.
    """
    candidates = STUDY_CORPORA if set(chosen) & set(STUDY_CORPORA) else STUDY_CORPORA + OPEN_CORPORA
    lines = [line for name in candidates if (line := corpus_problem(name, data_root))]
    if not chosen:
        raise UserError(
            f"data_root={data_root} contains none of {', '.join(candidates)}: set data_root or "
            "FEDSER_DATA_ROOT to a folder with one subfolder per corpus, or set "
            f"corpora=[NAME,NAME] to other corpora; {DOCS} lists where to get them"
        )
    return lines


def check_rotation(corpora: Sequence[str], data_root: str, attacked: bool) -> None:
    """Reject corpora that cannot be private one after another.

    Parameters
    ----------
    attacked : bool
        Whether each corpus is attacked from the other corpora.

    Raises
    ------
    UserError
        If a corpus is missing, or if there is no other corpus to attack from.
    """
    for name in corpora:
        if line := corpus_problem(name, data_root):
            raise UserError(line)
    if attacked and len(set(corpora)) < 2:
        raise UserError(
            f"corpora=[{','.join(corpora)}]: each corpus is attacked from the other corpora, so at "
            "least two are needed: add one, or set shadow"
        )
