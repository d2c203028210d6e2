"""What the Hub answers, as a sentence that anybody may read."""

from __future__ import annotations

from rtdyn.hub.errors import explained


def test_no_signature_password_or_token_of_an_address_is_said() -> None:
    said = explained(OSError("no answer from https://me:secret@mirror.org/a/b?Signature=secret (twice)"), "a file")
    assert str(said) == (
        "a file cannot be downloaded (OSError: no answer from https://mirror.org/a/b (twice)); run the command again"
    )
