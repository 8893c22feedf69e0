"""Names: which identifiers, keys and sessions are allowed, and what is said of the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaitwire.limits import KEY_CHARACTERS_MAX, LABEL_CHARACTERS_MAX
from plaitwire.names import identifier_flaw, is_session, key_flaw


@pytest.mark.parametrize("name", ["0", "a b", "été", "x" * LABEL_CHARACTERS_MAX, "exp-7.1_b", "🙂"])
def test_good_identifiers(name: str) -> None:
    """Any text without the separators can name a run."""
    assert identifier_flaw("id", name) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "empty"),
        ("x" * (LABEL_CHARACTERS_MAX + 1), "129 characters"),
        ("a/b", "'/'"),
        ("a,b", "','"),
        ("a:b", "':'"),
        ("a\nb", r"'\n'"),
        ("\x9f", "control"),
        ("\ud800", "not allowed"),
    ],
)
def test_bad_identifiers(name: str, words: str) -> None:
    """The sentence names the argument and what is wrong with it."""
    flaw = identifier_flaw("label", name)
    assert flaw is not None
    assert flaw.startswith("label ")
    assert words in flaw


@given(st.text(max_size=200))
def test_a_good_identifier_can_be_sent(name: str) -> None:
    """Whatever passes is UTF-8 and free of separators."""
    if identifier_flaw("id", name) is None:
        assert name.encode()
        assert not set(name) & set("/,:\n\0")


def test_keys() -> None:
    """A key is any text of 1 to 1,024 characters that UTF-8 can hold."""
    for key in ("a", "a/b:c,d\n", "k" * KEY_CHARACTERS_MAX):
        assert key_flaw(key) is None
    assert "empty" in (key_flaw("") or "")
    assert "1025 characters" in (key_flaw("k" * (KEY_CHARACTERS_MAX + 1)) or "")
    assert "surrogate" in (key_flaw("a\udfff") or "")


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "0" * 32 + "\n"])
def test_what_is_no_session(text: str) -> None:
    """A session is 32 lower-case hexadecimal digits and nothing else."""
    assert is_session("0123456789abcdef" * 2)
    assert not is_session(text)
