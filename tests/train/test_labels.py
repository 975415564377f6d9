"""How a report names runs of different configurations."""

import tfweightmirror as tfwm
from tests.train.written_runs import tree
from train.report import configs


def test_groups_of_one_rule_are_told_apart_by_what_differs() -> None:
    plain = configs.flat(tree("kp"), source="")
    same = configs.flat(tree("kolen_pollack", seed=3) | {"run_directory": "elsewhere"}, source="")
    assert configs.identity(plain) == configs.identity(same)
    for changes, expected in (
        ({"optimizer.options.momentum": 0.1}, "Kolen-Pollack, optimizer.momentum=0.1"),
        ({"data.name": "/sets/cifar10/1.0.0"}, "cifar10, small_conv, Kolen-Pollack"),
        ({"data.name": "/sets/mine/shapes"}, "shapes, small_conv, Kolen-Pollack"),
        ({"feedback.rule.name": "my_rules:Pruned"}, "my_rules:Pruned"),
        ({"feedback.last_layer.name": "backprop"}, "Kolen-Pollack, last layer backprop"),
    ):
        assert configs.labels_of([plain | changes, plain])[0] == expected


def test_what_a_run_did_not_say_is_not_called_none_which_may_be_a_value() -> None:
    plain = configs.flat(tree("wm"), source="")
    scaled = plain | {"mirror.options.norm": "scaling"}
    for label, end in zip(configs.labels_of([plain, scaled]), (" unset", "=scaling"), strict=True):
        assert label.endswith(f", mirror.norm{end}")


def test_a_constraint_is_named_as_a_part_with_its_options() -> None:
    plain = configs.flat(tree("kp"), source="")
    signs = {"*": {"name": "fixed_sign", "options": {"per": "neuron"}}}
    labels = configs.labels_of([plain, plain | {"constraints": signs}])
    assert labels[0].endswith(", constraints=none")
    assert labels[1].endswith(", constraints=*: fixed_sign(per=neuron)")


def test_rules_are_those_of_the_library() -> None:
    prefix = "feedback.rule.options."
    for rule in tfwm.rules.RULES:
        for alias in (rule.name, *rule.aliases):
            config = configs.flat(tree(alias), source="")
            options = {k.removeprefix(prefix): v for k, v in config.items() if prefix in k}
            assert config["feedback.rule.name"] == rule.name
            assert rule(**options) == tfwm.rules.get(alias)
