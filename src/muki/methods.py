"""Methods by name. A method is a choice for each link of one chain.

routing score → routing weights → target → instance weight → what the student minimises
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from muki.routing.scores import SCORES, parts_of
from muki.validation import nearest

_CALIBRATED = {"standardise": "standardised", "mixture": "mixture-calibrated"}
GOLD = "gold"  # the routing score of the ceilings: 1 for a teacher that knows the gold label, else 0


class Method(BaseModel):
    """How supervision is made from the teachers' outputs. Values are those of the `muki` preset unless said."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    score: str = Field("mc-entropy", description="routing score, one of " + ", ".join(SCORES) + "; or a sum, a+b")
    passes: int = Field(16, ge=0, description="Monte-Carlo dropout passes K; 0 for scores that need none")
    tolerance: float | None = Field(
        None, gt=0, description="stop drawing passes once the standard error of a text's certainty is at most this"
    )
    calibration: Literal["none", "standardise", "mixture"] = Field(
        "none",
        description="scores of different teachers become comparable over the pool: by mean and deviation, or as the "
        "log odds of the higher of two Gaussians",
    )
    refinement: Literal["none", "view", "view+names"] = Field(
        "none",
        description="view: the pool's classes in the student encoder's view correct the routing; view+names: so do the "
        "labels' names, if the teachers bear them out",
    )
    teacher_temperature: Literal["one", "pool"] = Field(
        "one",
        description="of the teachers' softmax; pool: each is sharpened as far as the view bears out what it chooses "
        "among its own labels; without refinement there is no view, and it changes nothing",
    )
    integration: Literal["soft", "hard"] = Field("soft", description="softmax over teachers, or the surest one alone")
    temperature: float = Field(0.2, gt=0, description="τ of the softmax over teachers (soft integration)")
    reweight: Literal["margin", "probability", "none"] = Field(
        "margin", description="texts on which teachers conflict count less: by margin, or by the routing's probability"
    )
    target: Literal["teachers", "gold"] = Field("teachers", description="what is learned; gold: the pool's own labels")
    objective: Literal["kl", "decoupled", "uhc", "dfa", "cfl"] = Field(
        "kl",
        description="kl: divergence from the target; decoupled: re-weight only its routing term; uhc, dfa, cfl: the "
        "losses of these methods",
    )
    student: Literal["trained", "merged", "none"] = Field(
        "trained", description="merged: average of the teachers' weights; none: the teachers themselves answer"
    )

    @model_validator(mode="before")
    @classmethod
    def _passes_follow_score(cls, values: object) -> object:
        """A score without dropout needs no passes, unless they are asked for."""
        if isinstance(values, dict) and "passes" not in values:
            score = values.get("score", "mc-entropy")
            known = [SCORES.get(part) for part in parts_of(score)] if isinstance(score, str) else []
            if score == GOLD or (known and all(part is not None and not part.needs_passes for part in known)):
                return {**values, "passes": 0}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.target == "gold" and self.score != GOLD:
            raise ValueError(f"target: gold needs score: {GOLD}, found '{self.score}'")
        if self.score == GOLD:
            return self._reads_labels_alone()
        for part in parts_of(self.score):
            if part not in SCORES:
                raise ValueError(f"score: unknown routing score '{part}'; known: {', '.join(SCORES)}")
        if "+" in self.score and self.calibration == "none":
            raise ValueError(f"calibration: a sum of scores ({self.score}) needs calibration: standardise")
        if self.refines and self.calibration == "none":
            raise ValueError("calibration: refinement needs scores that can be compared; set calibration: standardise")
        if self.refines and self.temperature != type(self).model_fields["temperature"].default:
            raise ValueError(
                f"temperature: {self.temperature:g} would change nothing, refined routing weights are probabilities; "
                "leave it out"
            )
        if self.reweight == "probability" and not self.refines:
            raise ValueError("reweight: probability needs routing weights that are probabilities; set refinement: view")
        fewest = max(SCORES[part].needs_passes for part in parts_of(self.score))
        if self.passes < fewest:
            raise ValueError(f"passes: score '{self.score}' needs {fewest} or more dropout passes, found {self.passes}")
        if self.passes and not fewest:
            raise ValueError(
                f"passes: {self.passes} would change nothing, score '{self.score}' needs no dropout; leave it out"
            )
        if self.tolerance is not None and not self.passes:
            raise ValueError(f"tolerance: {self.tolerance:g} would change nothing without dropout passes; leave it out")
        if self.objective == "uhc" or self.student == "merged":
            unrouted = "objective: uhc" if self.objective == "uhc" else "student: merged"
            self._refuse_idle(f"{unrouted} routes no text", "reweight")
        return self

    def _reads_labels_alone(self) -> Self:
        self._refuse_idle(f"score: {GOLD} reads the labels alone")
        return self

    def _refuse_idle(self, why: str, *more: str) -> None:
        """Refuse what would be done for nothing: how scores are made, and `more`."""
        idle = [
            key
            for key in ("passes", "tolerance", "calibration", "refinement", *more)
            if getattr(self, key) not in (0, None, "none")
        ]
        if idle:
            raise ValueError(f"{why}, so {', '.join(idle)} would change nothing; leave it out")

    @property
    def needs_gold(self) -> bool:
        """Whether gold labels of the pool are read: a ceiling to compare with, not a method for unlabelled texts."""
        return self.score == GOLD

    @property
    def refines(self) -> bool:
        """Whether the pool as a whole corrects the routing."""
        return self.refinement != "none"

    @property
    def sharpens(self) -> bool:
        """Whether each teacher's temperature is looked for."""
        return self.refines and self.teacher_temperature == "pool"

    @property
    def reads_names(self) -> bool:
        """Whether the labels' names are read."""
        return self.refinement == "view+names"

    @property
    def keep(self) -> str:
        """What else of the teachers' deterministic passes is needed."""
        features = self.score != GOLD and any(SCORES[part].needs_features for part in parts_of(self.score))
        states = self.objective in ("dfa", "cfl")
        return "+".join([*(["features"] if features else []), *(["states"] if states else [])])

    def spelled_out(self) -> str:
        """One line for reports."""
        passes = f", K={self.passes}" if self.passes else ""
        if passes and self.tolerance is not None:
            passes = f", K≤{self.passes} to ±{self.tolerance:g}"
        rule = f"soft τ={self.temperature:g}" if self.integration == "soft" else "hard"
        weight = "no re-weighting" if self.reweight == "none" else f"{self.reweight} re-weighting"
        if self.refines and self.integration == "soft":
            rule = "soft"  # its weights are probabilities already
        others = [
            *([f"{_CALIBRATED[self.calibration]} scores"] if self.calibration != "none" else []),
            *(["refined over the pool" + (" and by label names" if self.reads_names else "")] if self.refines else []),
            *(["teachers sharpened"] if self.sharpens else []),
            *(["gold labels as target"] if self.target == "gold" else []),
            *([f"objective {self.objective}"] if self.objective != "kl" else []),
            *(["no student"] if self.student == "none" else ["merged weights"] if self.student == "merged" else []),
        ]
        return ", ".join([f"{self.score}{passes}", rule, weight, *others])


_VANILLA = Method(score="energy", temperature=1.0, reweight="none")

DEFAULT_METHOD = "muki-plus"  # of `muki integrate` and of run files that name none

PRESETS: dict[str, Method] = {
    "muki-plus": Method(
        score="entropy+relative-mahalanobis",
        passes=0,
        calibration="standardise",
        refinement="view+names",
        teacher_temperature="pool",
        reweight="probability",
    ),
    "muki": Method(),
    "muki-fast": Method(tolerance=0.015),
    "muki-soft": Method(reweight="none"),
    "muki-hard": Method(integration="hard", reweight="none"),
    "muki-hard-margin": Method(integration="hard"),
    "muki-no-mc": Method(score="entropy"),
    "muki-soft-no-mc": Method(score="entropy", reweight="none"),
    "muki-hard-no-mc": Method(score="entropy", integration="hard", reweight="none"),
    "muki-hard-margin-no-mc": Method(score="entropy", integration="hard"),
    "vanilla-kd": _VANILLA,
    "uhc": _VANILLA.model_copy(update={"objective": "uhc"}),
    "dfa": _VANILLA.model_copy(update={"objective": "dfa"}),
    "cfl": _VANILLA.model_copy(update={"objective": "cfl"}),
    "weight-merge": _VANILLA.model_copy(update={"student": "merged"}),
    "ensemble": _VANILLA.model_copy(update={"student": "none"}),
    "routed-ensemble": Method(student="none"),
    "oracle": Method(score=GOLD, integration="hard", reweight="none"),
    "supervised": Method(score=GOLD, integration="hard", reweight="none", target="gold"),
}


def changed(preset: object, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's parts with some of them changed; passes follow a changed score.

    Raises:
        ValueError: there is no such preset.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"unknown method '{preset}'{nearest(str(preset), PRESETS)}; known: {', '.join(PRESETS)}")
    parts = PRESETS[preset].model_dump()
    if "score" in changes and "passes" not in changes:
        del parts["passes"]
    return {**parts, **changes}


def preset_name(method: Method) -> str:
    """The preset that equals `method`, or `custom`."""
    return next((name for name, preset in PRESETS.items() if preset == method), "custom")
