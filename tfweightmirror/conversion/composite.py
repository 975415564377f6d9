"""Composites: layers and models of a user's own that keep the rules of the layers inside them.

The config of such an owner says how to make plain layers, since these were converted in place. So
whatever is made from a config (files, clones, copies) would come back without rules, in silence
where a rule has no variable. An owner of converted layers therefore takes a class made for it,
whose config holds the plain owner's and the rules of what is inside.
"""

import functools
from collections.abc import Iterator
from typing import Any, ClassVar

import keras

from tfweightmirror import rules
from tfweightmirror._internals import keras_hooks, saving_hooks
from tfweightmirror._internals.docs import see
from tfweightmirror._internals.walk import walk
from tfweightmirror.conversion import twins
from tfweightmirror.layers.carries_rule import CarriesRule

_NAME = {"package": "tfweightmirror", "name": "Composite"}


class Composite:
    """Mixin: a layer or model of a user's own that is saved with the rules of the layers inside."""

    plain_class: ClassVar[Any] = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refused: a constructor knows of no rules."""
        raise ValueError(
            f"This {cls.__name__} holds converted layers, and its constructor would make another "
            "with plain ones. Make it from its config (`type(layer).from_config("
            f"layer.get_config())`), or call the class {cls.__name__} itself and convert the model."
        )

    def get_config(self: Any) -> dict[str, Any]:
        """The config of the plain owner, and the rule of every converted layer below it."""
        if isinstance(self, keras.Model) and saving_hooks.writes_legacy_file():
            raise ValueError(
                f"Model '{self.name}' ({type(self).__name__}) holds converted layers, and a legacy "
                ".h5 file knows a model of your own by its class alone: their rules would be lost. "
                "Save it as .keras, or its weights as .weights.h5."
                + see("a-legacy-file-cannot-hold-the-rules")
            )
        for path, layer in walk(self):
            if keras_hooks.waits_for_build(layer):
                raise ValueError(
                    f"Layer '{path}' ({type(layer).__name__}) is not built, and feedback layers "
                    f"that it makes when it is built would be lost from the config of '{self.name}'"
                    ". Build the model first, by calling it on data."
                    + see("a-layer-that-is-not-built")
                )
        plain, made = self.plain_class, type(self)
        self.__class__ = plain
        try:
            config = self.get_config()
        finally:
            self.__class__ = made
        return {
            "owner": {
                "module": plain.__module__,
                "class_name": plain.__name__,
                "registered_name": keras.saving.get_registered_name(plain),
                "config": config,
            },
            "feedback": {
                place: became
                for place, layer in _places(self)
                if (became := _as_it_became(layer)) is not None
            },
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Make the plain owner, and convert what was converted."""
        if "feedback" not in config:  # Keras' clone of a model finds this class by its plain name.
            return cls.plain_class.from_config(config)
        owner = config["owner"]
        if cls.plain_class is None:
            layer = keras.saving.deserialize_keras_object(owner)
        else:
            layer = cls.plain_class.from_config(dict(owner["config"]))
        _convert_again(layer, config["feedback"])
        return layer

    def __reduce__(self: Any) -> Any:
        """As Keras pickles, by the name of the plain class: a class that is made has none."""
        return self.plain_class._unpickle_model, super().__reduce__()[1]


keras.saving.register_keras_serializable(**_NAME)(Composite)


@functools.cache
def _class_for(plain: Any) -> type[Any]:
    names = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    made = type(plain.__name__, (Composite, plain), {**names, "plain_class": plain})
    # Every such class is written under one name, which stands for the class that reads them all.
    keras.saving.register_keras_serializable(**_NAME)(made)
    keras.saving.register_keras_serializable(**_NAME)(Composite)
    return made


def mark(model: keras.layers.Layer) -> None:
    """Give owners of converted layers, `model` and all below, the class that saves the rules.

    Owners that have none (any more) take their plain class.
    """
    for _, layer in walk(model):
        ours = type(layer).__module__.startswith(("keras.src.", "tfweightmirror."))
        if isinstance(layer, CarriesRule) or ours:
            continue
        plain: Any = getattr(type(layer), "plain_class", None) or type(layer)
        wanted = _class_for(plain) if _loses_layers(layer) else plain
        if type(layer) is not wanted:
            layer.__class__ = wanted


def _loses_layers(owner: keras.layers.Layer) -> bool:
    """Whether feedback layers below `owner` are there, or will be, without its config's doing."""
    kept = {id(layer) for child in saving_hooks.layers_in_config(owner) for _, layer in walk(child)}
    return any(
        keras_hooks.waits_for_build(layer) or _as_it_became(layer) is not None
        for _, layer in walk(owner)
        if id(layer) not in kept
    )


def _as_it_became(layer: Any) -> dict[str, Any] | None:
    """What conversions have made of `layer`, as a config; None if nothing."""
    if type(layer) in twins.PLAIN_CLASSES:
        return {"layer": twins.PLAIN_CLASSES[type(layer)].__name__, **twins.rule_of(layer)}
    return {"layer": type(layer).__name__} if getattr(layer, "was_tied", False) else None


def _places(owner: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
    """(place, layer) of all below `owner`: numbers, since automatic names are others every time."""
    seen: set[int] = set()

    def below(layer: keras.layers.Layer, prefix: str) -> Iterator[tuple[str, keras.layers.Layer]]:
        children = [
            child
            for child in keras_hooks.child_layers(layer)
            # A Sequential gets it when it is built.
            if not isinstance(child, keras.layers.InputLayer)
        ]
        for number, child in enumerate(children):
            if id(child) not in seen:
                seen.add(id(child))
                yield f"{prefix}{number}", child
                yield from below(child, f"{prefix}{number}/")

    return below(owner, "")


def _convert_again(owner: keras.layers.Layer, feedback: dict[str, Any]) -> None:
    """Convert the layers below `owner` that stand at the places of `feedback`.

    Those that do not exist yet are converted when the layer that makes them is built.
    """
    found = dict(_places(owner)) | {"": owner}
    later: dict[str, dict[str, Any]] = {}
    for place, config in feedback.items():
        layer, above = found.get(place), _unbuilt_above(found, place)
        if layer is None and above is not None:
            later.setdefault(above, {})[place.removeprefix(above).lstrip("/")] = config
            continue
        if twins.name_of_untied(layer) == config["layer"]:
            twins.to_untied(layer)
        if type(layer).__name__ == config["layer"] and type(layer) in twins.TWINS:
            if "rule" in config:
                twins.to_twin(
                    layer,
                    rules.get(config["rule"]),
                    seed=config["feedback_seed"],
                    feedback_initializer=config["feedback_initializer"],
                )
        elif not isinstance(layer, CarriesRule):  # Its owner's own config may have made it so.
            under = "rule" in config and f" under the rule '{rules.get(config['rule']).name}'"
            raise ValueError(
                f"Layer '{owner.name}' ({type(owner).__name__}) was saved with a "
                f"{config['layer']}{under or ''} at place "
                f"{place} of the layers below it, and has {type(layer).__name__} there when made "
                "from its config. Make the model by its own code, convert it, and load its weights."
                + see("another-model-was-saved")
            )
    for place, rest in later.items():
        waiting = found[place]
        keras_hooks.after_build(waiting, functools.partial(_convert_again, waiting, rest))
    mark(owner)


def _unbuilt_above(found: dict[str, keras.layers.Layer], place: str) -> str | None:
    """The nearest place above `place` whose layer is there and not built yet."""
    parts = place.split("/")
    above = ["/".join(parts[:count]) for count in reversed(range(len(parts)))]
    return next((p for p in above if p in found and not found[p].built), None)
