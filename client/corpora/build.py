"""Build corpora from their settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from fedser.client.corpora.base import Corpus
from fedser.common.errors import UserError
from fedser.conf.build import build_group, compose


def build_corpus(settings: Any, data_root: str) -> Corpus:
    """Build a corpus; build the parts of a pooled corpus first.

    Raises
    ------
    UserError
        If a value has the wrong type; the message names the key.
    """
    fields = dict(settings)
    if "parts" in fields:
        entries = fields["parts"]
        if not isinstance(entries, Sequence) or isinstance(entries, str):
            raise UserError(f"corpus.parts={entries}: must be a list, such as [ravdess,emodb]")
        parts = [named_corpus("corpus.parts", entry, data_root) for entry in entries]
        fields["parts"] = [build_corpus(part, data_root) for part in parts]
    if "emotions" in fields:
        fields["emotions"] = _emotion_names(fields["emotions"])
    corpus: Corpus = build_group("corpus", fields)
    return corpus


def _emotion_names(given: Any) -> dict[str, str | None]:
    """Return the emotion mapping; pairs allow names that cannot be keys, such as ``joy/fun``."""
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    try:
        return {str(name): emotion for name, emotion in given}
    except (TypeError, ValueError):
        raise UserError(
            f"corpus.emotions={given}: must be a mapping {{NAME: EMOTION}} or a list of pairs "
            "[[NAME, EMOTION]]"
        ) from None


def named_corpus(key: str, entry: Any, data_root: str) -> Any:
    """Compose the settings of one corpus in a list of corpora.

    Parameters
    ----------
    key : str
        Configuration key of the list.
    entry : str or mapping
        A name in ``conf/corpus``, or ``{corpus: NAME}`` with keys to change.

    Raises
    ------
    UserError
        If the entry is neither.
    """
    changes = dict(entry) if isinstance(entry, Mapping) else {"corpus": entry}
    if not isinstance(changes.get("corpus"), str):
        raise UserError(
            f"{key}: the entry {entry} names no corpus: write NAME or {{corpus: NAME, KEY: VALUE}}"
        )
    composed = compose([f"corpus={changes.pop('corpus')}"], "node")
    composed.data_root = data_root
    return OmegaConf.merge(composed.corpus, changes)
