"""A method in plain words: whom it hears and why, what the student learned, and where the method was published."""

from __future__ import annotations

from muki.methods import Method
from muki.routing.scores import SCORES, parts_of

INTEGRATION = (
    "Li et al., From Mimicking to Integrating: Knowledge Integration for Pre-Trained Language Models, "
    "Findings of EMNLP 2022, arXiv 2210.05230"
)
_OBJECTIVES = {
    "uhc": "Vongkulbhisal et al., Unifying Heterogeneous Classifiers with Distillation, CVPR 2019",
    "dfa": "Shen et al., Amalgamating Knowledge towards Comprehensive Classification, AAAI 2019",
    "cfl": "Luo et al., Knowledge Amalgamation from Heterogeneous Networks by Common Feature Learning, IJCAI 2019",
}
_MERGING = "Hackmann, HM3: Heterogeneous Multi-Class Model Merging, 2024, arXiv 2409.19173"
_DISTILLATION = "Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv 1503.02531"


def estimates_routing(method: Method) -> bool:
    """Whether routing weights are meant as probabilities that a teacher is the one to know the text's label."""
    return method.refines and method.integration == "soft" and not method.needs_gold


def weighs_foreign(method: Method) -> bool:
    """Whether a text counts the less in training, the likelier it belongs to none of the labels."""
    return method.refines and method.reweight == "probability" and not method.needs_gold


def cause(method: Method, refined: bool, named: bool = False) -> str:
    """What the routing weights follow, in a few words that go after "its" and "their": `certainty`, `scores`, `energy`.

    Args:
        method: the method.
        refined: whether the pool's classes were trusted to correct the scores; of methods that try it.
        named: whether the labels' names were heard; of methods that read them.
    """
    if method.needs_gold:
        return "gold labels"
    if method.refines and refined:
        return "scores, label names and the pool's classes" if named else "scores and the pool's classes"
    if named:
        return "scores and label names"
    if method.calibration == "none" and SCORES[method.score].is_certainty:
        return "certainty"
    parts = parts_of(method.score)
    return "scores" if len(parts) > 1 else SCORES[parts[0]].words.partition(" (")[0]


def whom_it_hears(method: Method, refined: bool, named: bool = False) -> str:
    """One or two sentences on how much each teacher was heard on a text, and why.

    Args:
        method: the method.
        refined: as for `cause`.
        named: as for `cause`.
    """
    if method.target == "gold":
        return "The student learned the texts' gold labels; no teacher was heard."
    if method.needs_gold:
        return "The texts' gold labels decided which teacher was heard: a ceiling for other methods, not a way without."
    if method.student == "merged":
        return "The student is the average of the teachers' weights; no text taught it."
    if method.objective == "uhc":
        return "The student matched each teacher among that teacher's own labels; nobody chose between teachers."
    said = [_routing(method, refined, named), _weight(method, refined)]
    if method.sharpens:
        said.append("Teachers that are surer among their own labels than they say are sharpened.")
    if method.objective in ("dfa", "cfl"):
        said.append("The student also imitated the teachers' hidden states.")
    return " ".join(filter(None, said))


def what_weights_show(method: Method) -> str:
    """What routing weights mean where they decided nothing; empty where they did."""
    if method.target == "gold":
        return "What follows is who knows these labels."
    if method.student == "merged" or method.objective == "uhc":
        return "What follows is how vanilla distillation would have weighed the teachers."
    return ""


def how_it_was_made(method: Method, teachers: int, texts: int) -> str:
    """What a reader of the model card should know first: who taught the student, and whether labels were used."""
    specialists = f"{teachers} fine-tuned classifiers, each a specialist for its own labels"
    if method.target == "gold":
        return f"It was trained on {texts:,} texts **with gold labels**, as a ceiling for methods that need none."
    if method.needs_gold:
        return (
            f"{specialists}, taught it on {texts:,} texts, and **gold labels** said whom to hear: a ceiling for "
            "methods that need none."
        )
    if method.student == "merged":
        return f"It was made **without labelled texts**: its weights are the average of {specialists}."
    return (
        f"It was trained **without labelled texts**: {specialists}, taught it on {texts:,} unlabelled texts."
    )  # fmt: skip


def reference(method: Method) -> str:
    """Where the method was published."""
    if method.student == "merged":
        return _MERGING
    if method.objective in _OBJECTIVES:
        return _OBJECTIVES[method.objective]
    if method.score == "energy" and method.calibration == method.reweight == "none":
        return _DISTILLATION
    if method.needs_gold or cause(method, refined=True) == "certainty":  # as published, but for what is ablated
        return INTEGRATION
    return f"{INTEGRATION}; the routing is muki's own (docs/method.md)"


def _routing(method: Method, refined: bool, named: bool) -> str:
    why = cause(method, refined, named)
    if why == "certainty":
        alone = ", by no other" if method.integration == "hard" else ""
        return f"Each text is taught {'' if alone else 'mostly '}by the teacher that is surest of it{alone}."
    names = [SCORES[part].words for part in parts_of(method.score)]
    scores = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    if method.calibration != "none":
        how = {"standardise": "standardised over the pool", "mixture": "as the log odds of the pool's higher scores"}
        scores += f", {'each ' if len(names) > 1 else ''}{how[method.calibration]}"
    if method.refines and refined:
        words = ", with the labels' names" if named else ""
        return (
            f"A teacher is heard with the probability that it is the one to know the text's label. Two judges give it: "
            f"its {scores}; and the classes that the pool shows in the student's encoder{words}."
        )
    if named:
        scores += ", and how well the text fits the names of its labels"
    kept = "; the pool's classes were not trusted to correct this" if method.refines else ""
    return f"How much a teacher is heard follows its {scores}{kept}."


def _weight(method: Method, refined: bool) -> str:
    strange = ", and less where it seems to belong to none of the labels" if weighs_foreign(method) and refined else ""
    return {
        "margin": "Texts on which two teachers are about equal count less.",
        "probability": f"A text counts as much as its label is likely to come from a right teacher{strange}.",
        "none": "",
    }[method.reweight]
