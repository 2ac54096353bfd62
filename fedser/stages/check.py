"""What the adversary and the audit are refused before anything is trained."""

from collections.abc import Sequence
from typing import Any

from fedser.attacks.adversary import shadow_federations as shadow
from fedser.attacks.adversary.fit import speaker_groups
from fedser.attacks.adversary.prepare import corpus_numbers
from fedser.attacks.evaluation.attribute import check_victims
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
    """Refuse, before anything is trained, an attack that could not be carried out.

    Returns
    -------
    list of str
        The values of the attribute.

    Raises
    ------
    UserError
        Naming the key.
    """
    adversary = config.adversary
    for key, choices in CHOICES.items():
        check_choice(f"adversary.{key}", getattr(adversary, key), choices)
    _check_layers(config)
    _check_attacks(config)
    shadow.refuse_overlap(private, shadows)
    classes = shadow.attribute_classes(shadows, adversary.attribute)
    if adversary.attribute != shadow.SPEAKER:
        check_victims(private, adversary.attribute, classes)
    if "fusion" in config.attack:
        labels = shadow.speaker_labels(shadows, adversary.attribute, classes)
        speaker_groups(labels, corpus_numbers(shadows))
    return classes


def _check_layers(config: StudyConfig) -> None:
    names = parameter_names(config)
    recorded = choose_layers(config.transcript.layers, names, "transcript.layers")
    if not config.adversary.layers:
        raise UserError("adversary.layers names no layer; first is where most leaks")
    for layers in config.adversary.layers:
        if not set(choose_layers(layers, names, "adversary.layers")) <= set(recorded):
            raise UserError(
                f"adversary.layers: {layers} is not recorded by "
                f"transcript.layers={config.transcript.layers}; set transcript.layers=all"
            )


def _check_attacks(config: StudyConfig) -> None:
    """Refuse combinations of attacks with what the adversary knows or is after."""
    adversary, attacks = config.adversary, {n: build(a) for n, a in config.attack.items()}
    if fusion := attacks.get("fusion"):
        absent = [name for name in fusion.of if name not in attacks or name == "fusion"]
        if absent or not fusion.of:
            raise UserError(
                f"attack.fusion.of={fusion.of} must name some of the attacks of this run, "
                f"{', '.join(n for n in attacks if n != 'fusion') or 'of which there is none'}"
            )
        if adversary.attribute == shadow.SPEAKER:
            raise UserError("attack=fusion infers an attribute; it cannot recognise a speaker")
    if "snapshot" in attacks and not (
        adversary.vantage == "attributed" and adversary.initial_weights
    ):
        raise UserError(
            "attack=snapshot needs every round's model and each update with its sender: set "
            "adversary.vantage=attributed and adversary.initial_weights=true, or leave it out"
        )


def check_audit(config: StudyConfig) -> None:
    """Refuse an audit that could not be carried out.

    Raises
    ------
    UserError
        Naming the key.
    """
    audit = config.audit
    check_choice("audit.name", audit.name, ("none", "canary"))
    if audit.name == "canary" and not config.privacy.spec.guaranteed:
        raise UserError(
            f"audit=canary: privacy={config.privacy.mechanism} guarantees nothing that an audit "
            f"could refute; choose privacy={', '.join(GUARANTEED)}"
        )
    if audit.canaries < 100 or audit.releases < 1 or not 0.5 < audit.confidence < 1:
        raise UserError("audit needs 100 canaries, 1 release and a confidence between 0.5 and 1")
    if not audit.magnitudes or min(audit.magnitudes) <= 0:
        raise UserError("audit.magnitudes must name norms above 0")


def check_store(config: StudyConfig, attacking: bool) -> None:
    """Refuse what cannot be done where only what attacks read of an update is kept.

    Raises
    ------
    UserError
        Naming the key.
    """
    adversary, store = config.adversary, "transcript.store=features"
    if config.transcript.store != "features":
        return
    if not attacking:
        raise UserError(
            f"{store} keeps what attacks read of each update and nothing else: set stage=all, "
            "shadow and attack, or set transcript.store=updates"
        )
    if adversary.vantage != "attributed":
        raise UserError(
            f"adversary.vantage={adversary.vantage} looks at models, which {store} does not keep; "
            "set adversary.vantage=attributed or transcript.store=updates"
        )
    if adversary.combination == "updates":
        raise UserError(
            f"adversary.combination=updates takes means of updates, which {store} does not keep; "
            "set adversary.combination=statistics or log_odds, or transcript.store=updates"
        )
    if "snapshot" in config.attack:
        raise UserError(
            f"attack=snapshot goes back to every model and update, which {store} does not keep; "
            "leave it out, or set transcript.store=updates"
        )
    if "cnn" in config.attack and adversary.combination != "log_odds":
        raise UserError(
            f"attack=cnn reads whole updates, of which {store} keeps nothing as large; set "
            "adversary.combination=log_odds, leave it out, or set transcript.store=updates"
        )


def shadow_settings(config: StudyConfig) -> list[Any]:
    """Return the settings of each shadow corpus."""
    return [named_corpus("shadow", entry, config.data_root) for entry in config.shadow]


def show_sources(config: StudyConfig) -> None:
    """Print what is there of published corpora, before a missing part ends the run."""
    here = [] if config.runtime.name == "network" else [config.corpus]  # else the nodes have it
    for settings in (*here, *shadow_settings(config)):
        for corpus in overview.corpora_on_disk(build_corpus(settings, config.data_root)):
            if isinstance(corpus, Published):
                console.print(overview.parts_table(corpus))
                console.print(plain(overview.origin(corpus)), soft_wrap=True)
            found = corpus.listing(cache_folder(config.cache))
            if told := overview.completeness(corpus, found):
                console.print(plain(f"corpus {corpus.name}\n{told}"), soft_wrap=True)


def show_corpus(corpus: CorpusData | Roster) -> None:
    """Print how many speakers and utterances of each emotion a corpus has."""
    if isinstance(corpus, Roster):
        console.print(plain(f"{corpus.name}: {len(corpus.speakers)} speakers at the nodes"))
        return
    unreadable = {"unreadable": len(corpus.skipped)} if corpus.skipped else {}
    left_out = {**corpus.left_out, **unreadable}
    console.print(overview.counts_table(corpus.name, corpus.utterances, left_out))
