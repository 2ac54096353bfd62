"""The order of the stages of a study, and what one stage passes to the next."""

from fedser.attacks.adversary import shadow_federations as shadow
from fedser.stages import study
from tests.fedser.test_study import SMALL


def test_private_federations_are_built_once_for_all_stages(fedser, undrawn, monkeypatch):
    built, shadow_noise = [], []
    build, build_shadows = study.private_federations, shadow.shadow_federations

    def note_private(*given):
        built.append(build(*given))
        return built[-1]

    def note_shadows(*given):
        federations = build_shadows(*given)
        shadow_noise.extend(f.protocol.plan.noise_multiplier for f in federations)
        return federations

    monkeypatch.setattr(study, "private_federations", note_private)
    monkeypatch.setattr(shadow, "shadow_federations", note_shadows)
    noise = ["privacy=local", "privacy.epsilon=8", "adversary.aware=true"]
    audit = ["audit=canary", "audit.canaries=100", "audit.releases=1", "audit.magnitudes=[1]"]
    few = ["rounds=2", "attack=statistics", "model.hidden=[4,2]"]
    assert fedser(*SMALL, *noise, *audit, *few)[0] == 0
    (federations,) = built
    victims_noise = {f.protocol.plan.noise_multiplier for f in federations}
    assert len(federations) == 2 and set(shadow_noise) == victims_noise
