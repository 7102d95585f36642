"""The bridge from the page to Python: any text in, one JSON object out."""

import json

import pytest

from lib_ti.errors import BadInput, Problem, TextualInversionError, UnusableFile
from lib_ti.webui.api.bridge import handle_request


def fail(error: Exception):
    def action(**_):
        raise error

    return action


ACTIONS = {
    "greet": lambda name, loudly=False: {"said": f"hello {name}" + "!" * loudly},
    "nothing": lambda: {},
    "echo": lambda value: {"value": value},
    "bad": fail(BadInput([Problem("steps", "'x' is not a whole number"), Problem("", "and more")])),
    "unusable": fail(UnusableFile("mug.png", "not a picture")),
    "unhappy": fail(TextualInversionError("This training is not running.")),
    "broken": fail(KeyError("oops")),
}


def ask(request: object) -> dict:
    text = request if isinstance(request, str) else json.dumps(request)
    reply = handle_request(ACTIONS, text)
    reply.encode()
    reply_object = json.loads(reply, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert isinstance(reply_object, dict)
    return reply_object


def test_arguments_are_passed_by_name():
    assert ask({"do": "greet", "name": "my-mug"}) == {"said": "hello my-mug"}
    assert ask({"do": "greet", "name": "кружка", "loudly": True}) == {"said": "hello кружка!"}
    assert ask({"do": "nothing"}) == {}


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "null", "5", '"greet"', "[]", "{}", '{"do"', '{"do": "dance"}', '{"do": null}', '{"do": ["greet"]}',
        '{"do": {"do": "greet"}}', '{"name": "x"}', '{"do": "greet"}', '{"do": "greet", "name": 1, "more": 2}',
        '{"do": "nothing", "do": "dance"}', '{"do": "nothing", "self": 1}', '{"do": "nothing", "": 1}', "\0", "\ud800",
        "{" * 5000, "[" * 200_000, '{"do": "greet", "name": ' + "[" * 200_000, '{"do": "x", "a": ' + "9" * 9000 + "}",
        "__class__", '{"do": "__class__"}',
    ],
)  # fmt: skip
def test_malformed_requests_say_to_reload(text):
    reply = ask(text)
    assert reply.keys() == {"error"}
    assert "reload the page" in reply["error"]


def test_missing_text_says_to_reload():
    assert "reload" in json.loads(handle_request(ACTIONS, None))["error"]


def test_problems_name_their_options():
    assert ask({"do": "bad"}) == {
        "problems": [
            {"option": "steps", "message": "'x' is not a whole number"},
            {"option": "", "message": "and more"},
        ]
    }


def test_user_errors_have_no_traceback():
    assert ask({"do": "unhappy"}) == {"error": "This training is not running."}
    assert ask({"do": "unusable"}) == {"error": "mug.png: not a picture"}


def test_unexpected_errors_have_a_traceback_and_are_logged(caplog):
    reply = ask({"do": "broken"})
    assert reply["error"] == "KeyError: 'oops'"
    assert "Traceback" in reply["details"]
    assert "an action failed" in caplog.text


@pytest.mark.parametrize("value", ["\ud800", "\0", "\u2028</script>", "🦉", "\udfff\ud800", {"a\ud800": [None]}])
def test_any_text_round_trips(value):
    """Half a surrogate pair is a text to JavaScript, and may be in a file's name; encoders of replies stumble over it."""
    assert ask({"do": "echo", "value": value}) == {"value": value}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_non_finite_numbers_are_never_sent(number):
    """A browser would not read the reply."""
    ask('{"do": "echo", "value": ' + number + "}")
