"""The message about a value that is not among the choices."""

import pytest
from torch._utils import ExceptionWrapper

from sat_peft.errors import UsageError, unknown_choice


def test_unknown_choice_names_the_value_close_ones_and_all_choices():
    error = unknown_choice("protocol", "wsl", ["sat", "wsol", "original"])
    assert isinstance(error, UsageError)
    assert isinstance(error, ValueError)
    assert str(error) == "unknown protocol 'wsl'. Did you mean 'wsol'? Valid choices: sat, wsol, original."


def test_error_of_a_loader_process_keeps_its_message_alone():
    message = "the image 'a.jpg' cannot be read.\nRepair it."
    try:
        try:
            raise OSError("damaged")
        except OSError as cause:
            raise UsageError(message) from cause
    except UsageError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")  # what a worker sends
    with pytest.raises(UsageError) as caught:
        wrapped.reraise()
    assert str(caught.value) == message


def test_nothing_is_suggested_for_a_value_that_resembles_nothing():
    assert str(unknown_choice("split", 7, ["train"])) == "unknown split 7. Valid choices: train."
