"""docs/guides/troubleshooting.md quotes messages of the code, and these name their entries."""

import ast
import re
from collections.abc import Callable, Iterator

import keras
import pytest

import tfweightmirror as tfwm
from tests.pages import DOCS, ROOT, anchors, blocks
from tfweightmirror._internals.docs import see
from tools.site_hooks import anchor
from train import errors
from train.__main__ import main

PAGE = DOCS / "guides" / "troubleshooting.md"
HEADINGS = re.findall(r"^### (.+)$", PAGE.read_text(), re.MULTILINE)


def trees() -> Iterator[ast.Module]:
    """The modules of the library and the launcher."""
    for folder in ("tfweightmirror", "train"):
        for file in (ROOT / folder).rglob("*.py"):
            yield ast.parse(file.read_text())


def is_see(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "see"


def place(node: ast.AST) -> str:
    """What a call `see("anchor", "page")` returns."""
    assert isinstance(node, ast.Call)
    return see(*map(ast.literal_eval, node.args))


def text(node: ast.AST) -> str | None:
    """A text with `{}` for what is put in and with what `+ see(...)` adds; None for other nodes."""
    if isinstance(node, ast.BinOp) and is_see(node.right):
        said = text(node.left)
        return None if said is None else said + place(node.right)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def texts(node: ast.AST) -> Iterator[str]:
    """All texts of a module, a line each."""
    if (said := text(node)) is not None:
        yield " ".join(said.split())
    else:
        for below in ast.iter_child_nodes(node):
            yield from texts(below)


@pytest.fixture(scope="module")
def said() -> list[str]:
    return [one for tree in trees() for one in texts(tree)]


def quoted(heading: str) -> list[str]:
    """The messages of an entry, a line each."""
    lines = PAGE.read_text().split("\n")
    start = lines.index(f"### {heading}") + 1
    end = next((n for n in range(start, len(lines)) if re.match("##+ ", lines[n])), len(lines))
    return [" ".join(m.split()) for line, m in blocks(PAGE, "output") if start < line <= end]


@pytest.mark.parametrize("heading", HEADINGS)
def test_an_entry_quotes_messages_of_the_code_which_end_with_its_anchor(
    said: list[str], heading: str
) -> None:
    assert quoted(heading)
    for message in quoted(heading):
        parts = [part.strip() for part in message.split("...") if part.strip()]
        assert max(map(len, parts)) > 12
        found = [one for one in said if re.search(".*".join(map(re.escape, parts)), one)]
        assert found, message
        assert all(one.endswith(see(anchor(heading))) for one in found), found


def test_every_message_names_a_heading_that_exists() -> None:
    named = {place(node) for tree in trees() for node in ast.walk(tree) if is_see(node)}
    assert len(named) > 60
    for one in named:
        path, _, heading = one.removeprefix(" See ").removesuffix(".").partition("#")
        assert heading in anchors(ROOT / path), one


def test_library_and_launcher_say_it_in_the_same_words() -> None:
    for arguments in (("no-gpu",), ("phases", "launcher/phases")):
        assert see(*arguments) == errors.see(*arguments)


def dense(rule: str | None = None) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model if rule is None else tfwm.convert_model(model, rule)


def unbuilt() -> keras.Model:
    return keras.Sequential([keras.layers.Dense(2)])


def through_activation(model: keras.Model) -> None:
    tfwm.mirror_model(model, "gaussian", through_activation=True)


def fit_with(callback: keras.callbacks.Callback, rule: str | None = None) -> None:
    x = keras.ops.ones((2, 3))
    dense(rule).fit(x, x[:, :2], callbacks=[callback], verbose=0)


@pytest.mark.parametrize(
    ("named", "refused"),
    [
        ("nothing-to-convert", lambda: tfwm.convert_model(keras.Sequential(), "fa")),
        ("a-pattern-matches-no-layer", lambda: tfwm.convert_model(dense(), {"hed": "fa"})),
        ("a-feedback-layer-already", lambda: tfwm.convert_model(dense("fa"), "fa")),
        ("no-weight_mirror-layer", lambda: tfwm.mirror_model(dense("fa"))),
        ("no-activation-to-listen-behind", lambda: through_activation(dense("wm"))),
        ("the-callback-finds-no-layer", lambda: fit_with(tfwm.callbacks.KolenPollack())),
        ("it-needs-weight-decay", lambda: fit_with(tfwm.callbacks.KolenPollack(), "kp")),
        ("feedbackmonitor-finds-nothing", lambda: fit_with(tfwm.callbacks.FeedbackMonitor())),
        ("the-model-is-not-built", lambda: tfwm.convert_model(unbuilt(), "dfa")),
    ],
)
def test_a_refusal_of_the_library_ends_with_its_anchor(
    named: str, refused: Callable[[], object]
) -> None:
    with pytest.raises(ValueError) as caught:
        refused()
    assert str(caught.value).endswith(see(named))


def test_a_warning_ends_with_its_anchor() -> None:
    with pytest.warns(UserWarning, match="nothing teaches") as caught:
        dense("wm")(keras.ops.ones((2, 3)), training=True)
    assert str(caught[0].message).endswith(see("nobody-teaches-b"))


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("an-unknown-key", "--epochs=3"),
        ("an-unknown-key", "--training.epoch=3"),
        ("epochs-and-steps", "--training.epochs=3 --training.steps=5"),
        ("a-name-that-is-not-known", "--model=mpl"),
        ("an-option-that-a-part-does-not-have", "--model.name=mlp --model.options.unit=[3]"),
        ("a-module-of-your-own-is-not-found", "--model=no_such_module:net"),
    ],
)
def test_a_refusal_of_the_launcher_ends_with_its_anchor(
    capsys: pytest.CaptureFixture[str], named: str, arguments: str
) -> None:
    assert main(["fit", *arguments.split()]) == 2
    assert capsys.readouterr().err.endswith(f"{see(named)}\n")
