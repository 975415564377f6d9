"""Which layers of a model a rule, or a dict of patterns, is meant for."""

import dataclasses
import difflib
import fnmatch
import warnings
from typing import Any

import keras

from tfweightmirror import rules
from tfweightmirror._internals import keras_hooks
from tfweightmirror._internals.callers import stacklevel_of_user
from tfweightmirror._internals.docs import see
from tfweightmirror._internals.walk import symbolic_call, walk
from tfweightmirror.conversion import twins
from tfweightmirror.rules import Backprop, FeedbackRule

# (path, layer), and what it is to become.
Member = tuple[str, keras.layers.Layer]
Target = tuple[str, keras.layers.Layer, FeedbackRule]

_CONVOLVING_IN_TIME = (
    keras.layers.ConvLSTM1D,
    keras.layers.ConvLSTM2D,
    keras.layers.ConvLSTM3D,
)
# Their weights may have two axes and are no matrix that an error travels through.
_NO_MATRIX = (
    keras.layers.Embedding,
    keras.layers.PReLU,
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


def members_of(model: keras.layers.Layer) -> list[Member]:
    """(path, layer) of everything below `model`, without the parts that others convert."""
    below = list(walk(model))[1:]
    parts = {id(part) for _, layer in below for part in twins.parts_of(layer)}
    return [(path, layer) for path, layer in below if id(layer) not in parts]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which rule a layer gets.

    Attributes:
        patterns: Pairs (pattern, rule), in the order in which they are tried.
        whole: Whether one rule was given for the whole model.
    """

    patterns: tuple[tuple[str, FeedbackRule], ...]
    whole: bool

    @classmethod
    def of(cls, rule: Any) -> "Choice":
        """What the argument `rule` of `convert_model` means."""
        if isinstance(rule, dict) and "class_name" not in rule:
            return cls(tuple((str(name), rules.get(r)) for name, r in rule.items()), False)
        return cls((("*", rules.get(rule)),), True)

    def pattern_of(self, path: str) -> str | None:
        """The pattern that decides about the layer at `path`."""
        return next((pattern for pattern, _ in self.patterns if matches(path, pattern)), None)

    def rule_of(self, path: str) -> FeedbackRule | None:
        """The rule of the layer at `path`, or None if it is left alone."""
        rule = dict(self.patterns).get(self.pattern_of(path) or "")
        return None if isinstance(rule, Backprop) and not self.whole else rule

    def targets(self, members: list[Member], prefix: str = "") -> list[Target]:
        """The members to convert; `prefix` stands before their paths in the whole model."""
        return [
            (path, layer, rule)
            for path, layer in members
            if twins.has_twin(layer) and (rule := self.rule_of(prefix + path)) is not None
        ]

    def check(self, members: list[Member]) -> None:
        """Raise a ValueError for a pattern that does nothing."""
        if not self.patterns:
            raise ValueError(
                "convert_model received an empty dict of patterns. Expected at least one, such as "
                "{'*': 'weight_mirror'}."
            )
        if self.whole:
            return
        deciding = [(self.pattern_of(path), path, layer) for path, layer in members]
        for position, (pattern, rule) in enumerate(self.patterns):
            matched = [(path, layer) for path, layer in members if matches(path, pattern)]
            won = [layer for winner, _, layer in deciding if winner == pattern]
            if pattern == "*" and not won:
                continue  # The rest, of which there is none.
            if not matched:
                raise ValueError(_matches_nothing(pattern, members))
            if not won:
                raise ValueError(
                    f"Pattern '{pattern}' decides about no layer: all that it matches, such as "
                    f"'{matched[0][0]}', match an earlier pattern "
                    f"({', '.join(repr(p) for p, _ in self.patterns[:position])}). The first that "
                    "matches counts: put the narrower pattern first."
                    + see("a-pattern-decides-nothing")
                )
            if not isinstance(rule, Backprop) and not any(twins.has_twin(layer) for layer in won):
                raise ValueError(_matches_unsupported(pattern, rule, matched))

    def warn_of_unsupported(self, members: list[Member]) -> None:
        """Name the layers that were asked for, have matrices, and stay on backprop."""
        named: list[Member] = []
        for path, layer in members:
            below = any(path.startswith(f"{owner}/") for owner, _ in named)
            wanted = None if twins.has_twin(layer) else self.rule_of(path)
            if not (below or wanted is None or isinstance(wanted, Backprop)):
                named += [(path, layer)] * _holds_matrices(layer)
        if named:
            listed = ", ".join(f"{path} ({type(layer).__name__})" for path, layer in named)
            warnings.warn(
                f"These layers have matrices but no feedback twin, and stay on backprop: {listed}. "
                f"If that is meant, say so with a pattern, such as {{'{named[0][0]}': 'backprop', "
                "'*': ...}." + see("matrices-without-a-twin"),
                UserWarning,
                stacklevel=stacklevel_of_user(),
            )


def matches(path: str, pattern: str) -> bool:
    """Whether `pattern` means the layer at `path`, by its name or its whole path."""
    name = path.rpartition("/")[2]
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(name, pattern)


def _matches_nothing(pattern: str, members: list[Member]) -> str:
    paths = [path for path, layer in members if twins.has_twin(layer)]
    near = difflib.get_close_matches(pattern, paths, n=1, cutoff=0.5) or paths[:1]
    hint = f" Did you mean '{near[0]}'?" if near else ""
    for path, layer in members:
        parts = [f"{path}/{part}" for part, _ in walk(layer)][1:] if twins.has_twin(layer) else []
        if pattern.startswith(f"{path}/") or any(matches(part, pattern) for part in parts):
            hint = f" It names a part of '{path}' ({type(layer).__name__}), which has one rule."
            break
    if not all(layer.built for _, layer in members):
        hint += " Layers that are made in `build` may not exist yet. Build the model first."
    return (
        f"Pattern '{pattern}' matches no layer. Patterns are compared with a layer's name and with "
        f"the names of its owners and itself joined by slashes.{hint}"
        + see("a-pattern-matches-no-layer")
    )


def _matches_unsupported(pattern: str, rule: FeedbackRule, matched: list[Member]) -> str:
    path, layer = matched[0]
    named = ", ".join(f"'{path}' ({type(layer).__name__})" for path, layer in matched[:3])
    inside = any(twins.has_twin(below) for _, below in members_of(layer))
    remedy = f"For the layers inside write '{path}/*'." if inside else "Leave the pattern out."
    return (
        f"Pattern '{pattern}' asks for '{rule.name}' on an unsupported layer: it matches only "
        f"{named}. Supported: {', '.join(cls.__name__ for cls in twins.TWINS)}. {remedy}"
        + see("what-can-be-converted", "guides/convert")
    )


def with_ends(
    model: keras.Model,
    members: list[Member],
    targets: list[Target],
    *,
    first: FeedbackRule | None,
    last: FeedbackRule | None,
) -> list[Target]:
    """`targets`, with rules of their own for the first and the last layer that can be converted."""
    convertible = [(path, layer) for path, layer in members if twins.has_twin(layer)]
    ends = [(place, rule) for place, rule in ((0, first), (-1, last)) if rule is not None]
    if not (convertible and ends):
        return targets
    order = _call_order(model, [layer for _, layer in convertible])
    order = order or [layer for _, layer in convertible]
    if len(ends) == 2 and order[0] is order[-1]:
        raise ValueError(
            f"Layer '{order[0].name}' of model '{model.name}' is both the first and the last that "
            "can be converted, and first_layer and last_layer give it two rules. Expected one."
        )
    own = {id(order[place]): rule for place, rule in ends}
    by_id = {id(layer): rule for _, layer, rule in targets} | own
    spared = {of_layer for of_layer, rule in own.items() if isinstance(rule, Backprop)}
    return [
        (path, layer, by_id[id(layer)])
        for path, layer in convertible
        if id(layer) in by_id and id(layer) not in spared
    ]


def _call_order(model: keras.Model, layers: list[keras.layers.Layer]) -> list[keras.layers.Layer]:
    """The calls of `layers` in one symbolic call of the model; empty if that is not possible."""
    with keras_hooks.recording_calls_of(layers) as calls:
        called = model.built and symbolic_call(model) is not None
    return [call.layer for call in calls] if called else []


def nothing_to_convert(model: keras.Model, members: list[Member]) -> str:
    supported = ", ".join(cls.__name__ for cls in twins.TWINS)
    if not members:
        reason = "it has no layers yet: build it first, by calling it on data"
    elif any(twins.has_twin(layer) for _, layer in members):
        reason = "every layer that could be converted is left to 'backprop'"
    else:
        kinds = sorted({type(layer).__name__ for _, layer in members})
        reason = f"it holds only {', '.join(kinds)}. Supported: {supported}"
    return f"Nothing to convert in model '{model.name}': {reason}." + see("nothing-to-convert")


def _holds_matrices(layer: keras.layers.Layer) -> bool:
    """Whether an error travels back through a matrix that `layer` itself holds."""
    if isinstance(layer, _CONVOLVING_IN_TIME):
        return True
    if isinstance(layer, _NO_MATRIX) and not isinstance(layer, keras.layers.ReversibleEmbedding):
        return False
    weights = [w for w in keras_hooks.own_weights(layer) if "float" in w.dtype]
    return any(sum(size > 1 for size in weight.shape) > 1 for weight in weights)
