"""The message about a value that is not among the choices."""

from sat_peft.errors import UsageError, unknown_choice


def test_unknown_choice_names_the_value_close_ones_and_all_choices():
    error = unknown_choice("protocol", "wsl", ["sat", "wsol", "original"])
    assert isinstance(error, UsageError)
    assert isinstance(error, ValueError)
    assert str(error) == "unknown protocol 'wsl'. Did you mean 'wsol'? Valid choices: sat, wsol, original."


def test_nothing_is_suggested_for_a_value_that_resembles_nothing():
    assert str(unknown_choice("split", 7, ["train"])) == "unknown split 7. Valid choices: train."
