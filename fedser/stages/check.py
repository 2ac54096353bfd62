"""Check the adversary, the audit and the corpora before anything is trained."""

from collections.abc import Sequence
from typing import Any

from fedser.attacks.adversary import shadow_federations as shadow
from fedser.attacks.adversary.fit import speaker_groups
from fedser.attacks.adversary.prepare import corpus_numbers
from fedser.attacks.algorithms.base import ModelAttack, ScoreAttack
from fedser.attacks.evaluation.truth import check_victims
from fedser.client.corpora import overview
from fedser.client.corpora.build import build_corpus, named_corpus
from fedser.client.corpora.published import Published
from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.cache import cache_folder
from fedser.common.console import console, plain
from fedser.common.errors import UserError, check_choice
from fedser.conf.build import build
from fedser.conf.mechanisms import GUARANTEED
from fedser.conf.schema import StudyConfig
from fedser.server.federation.remote_clients import Roster
from fedser.server.study.federations import parameter_names
from fedser.server.transcript.transcript import choose_layers

CHOICES = {
    "vantage": ("attributed", "aggregate", "final"),
    "selection": ("random", "earliest", "latest"),
    "combination": ("updates", "statistics", "log_odds"),
}


def check_adversary(
    config: StudyConfig, private: CorpusData | Roster, shadows: Sequence[CorpusData]
) -> list[str]:
    """Reject attacks that cannot run.

    Returns
    -------
    list of str
        The values of the attribute.

    Raises
    ------
    UserError
        With the key that must change.
    """
    adversary = config.adversary
    for key, choices in CHOICES.items():
        check_choice(f"adversary.{key}", getattr(adversary, key), choices)
    _check_layers(config)
    _check_attacks(config)
    shadow.reject_overlap(private, shadows)
    classes = shadow.attribute_classes(shadows, adversary.attribute)
    if adversary.attribute != shadow.SPEAKER:
        check_victims(private, adversary.attribute, classes)
    for attack in map(build, config.attack.values()):
        if isinstance(attack, ScoreAttack):
            labels = shadow.speaker_labels(shadows, adversary.attribute, classes)
            speaker_groups(labels, corpus_numbers(shadows), attack.name)
    return classes


def _check_layers(config: StudyConfig) -> None:
    names = parameter_names(config)
    recorded = choose_layers(config.transcript.layers, names, "transcript.layers")
    if not config.adversary.layers:
        raise UserError("adversary.layers names no layer; set it to [first], which leaks most")
    for layers in config.adversary.layers:
        if not set(choose_layers(layers, names, "adversary.layers")) <= set(recorded):
            raise UserError(
                f"adversary.layers: {layers} is not recorded by "
                f"transcript.layers={config.transcript.layers}; set transcript.layers=all"
            )


def _check_attacks(config: StudyConfig) -> None:
    """Reject attacks that need what the adversary does not have, or cannot infer the attribute."""
    adversary, attacks = config.adversary, [build(settings) for settings in config.attack.values()]
    if config.privacy.encrypted and adversary.vantage == "attributed":
        raise UserError(
            "adversary.vantage=attributed: under privacy.aggregation=ckks the server sees sums and "
            "no single update; set adversary.vantage=aggregate"
        )
    if adversary.attribute == shadow.SPEAKER and adversary.vantage != "attributed":
        raise UserError(
            f"adversary.attribute=speaker compares several updates of a client, and "
            f"adversary.vantage={adversary.vantage} shows none: set adversary.vantage=attributed"
        )
    scoring = [attack.name for attack in attacks if not isinstance(attack, ScoreAttack)]
    for attack in attacks:
        if isinstance(attack, ScoreAttack):
            if not attack.of or not set(attack.of) <= set(scoring):
                raise UserError(
                    f"attack.{attack.name}.of={attack.of} must name other attacks of this run: "
                    f"{', '.join(scoring) or 'there is none, add some to attack'}"
                )
            if adversary.attribute == shadow.SPEAKER:
                raise UserError(
                    f"attack={attack.name} cannot recognise a speaker: remove it from attack, or "
                    "set another adversary.attribute"
                )
        knows_models = adversary.vantage == "attributed" and adversary.initial_weights
        if isinstance(attack, ModelAttack) and not knows_models:
            raise UserError(
                f"attack={attack.name} needs every round's model and each update with its sender: "
                "set adversary.vantage=attributed and adversary.initial_weights=true, or remove it "
                "from attack"
            )


def check_audit(config: StudyConfig) -> None:
    """Reject an audit that cannot run.

    Raises
    ------
    UserError
        With the key that must change.
    """
    audit = config.audit
    check_choice("audit.name", audit.name, ("none", "canary"))
    if audit.name == "canary" and not config.privacy.spec.guaranteed:
        raise UserError(
            f"audit=canary: privacy={config.privacy.mechanism} gives no guarantee to audit; "
            f"set privacy={', '.join(GUARANTEED)}"
        )
    if audit.canaries < 100 or audit.releases < 1 or not 0.5 < audit.confidence < 1:
        raise UserError(
            "audit needs at least 100 canaries and 1 release, and a confidence between 0.5 and 1"
        )
    if not audit.magnitudes or min(audit.magnitudes) <= 0:
        raise UserError("audit.magnitudes must be a list of norms above 0")


def check_store(config: StudyConfig, attacking: bool) -> None:
    """Reject settings that ``transcript.store=features`` does not allow.

    Raises
    ------
    UserError
        With the key that must change.
    """
    adversary, store = config.adversary, "transcript.store=features"
    if config.transcript.store != "features":
        return
    if not attacking:
        raise UserError(
            f"{store} stores only the features that attacks read: set stage=all, shadow and "
            "attack, or set transcript.store=updates"
        )
    if adversary.vantage != "attributed":
        raise UserError(
            f"adversary.vantage={adversary.vantage} looks at models, which {store} does not store; "
            "set adversary.vantage=attributed or transcript.store=updates"
        )
    if adversary.combination == "updates":
        raise UserError(
            f"adversary.combination=updates takes means of updates, which {store} does not store; "
            "set adversary.combination=statistics or log_odds, or transcript.store=updates"
        )
    for attack in map(build, config.attack.values()):
        if isinstance(attack, ModelAttack):
            raise UserError(
                f"attack={attack.name} reads every model and update again, which {store} does not "
                "store; remove it from attack, or set transcript.store=updates"
            )
        # A user's attack may lack the attribute: see `Attack`.
        if getattr(attack, "large_features", False) and adversary.combination != "log_odds":
            raise UserError(
                f"attack={attack.name} reads whole updates, which are too large for {store}; set "
                "adversary.combination=log_odds or transcript.store=updates, or remove it from "
                "attack"
            )


def shadow_settings(config: StudyConfig) -> list[Any]:
    """Return the settings of each shadow corpus."""
    return [named_corpus("shadow", entry, config.data_root) for entry in config.shadow]


def show_sources(config: StudyConfig) -> None:
    """Print which files of the corpora were found, before a missing file ends the run."""
    private = [] if config.runtime.name == "network" else [config.corpus]  # the nodes hold it
    for settings in (*private, *shadow_settings(config)):
        for corpus in overview.corpora_on_disk(build_corpus(settings, config.data_root)):
            if isinstance(corpus, Published):
                console.print(overview.parts_table(corpus))
                console.print(plain(overview.origin(corpus)), soft_wrap=True)
            found = corpus.listing(cache_folder(config.cache))
            if summary := overview.completeness(corpus, found):
                console.print(plain(f"corpus {corpus.name}\n{summary}"), soft_wrap=True)


def show_corpus(corpus: CorpusData | Roster) -> None:
    """Print how many speakers and utterances of each emotion a corpus has."""
    if isinstance(corpus, Roster):
        console.print(plain(f"{corpus.name}: {len(corpus.speakers)} speakers at the nodes"))
        return
    unreadable = {"unreadable": len(corpus.skipped)} if corpus.skipped else {}
    left_out = {**corpus.left_out, **unreadable}
    console.print(overview.counts_table(corpus.name, corpus.utterances, left_out))
