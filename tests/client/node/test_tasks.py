"""Repeated requests to an API that cannot be reached."""

import httpx
import pytest

from fedser.client.node.tasks import retries


class Api:
    """Raise these errors one after another, and then answer."""

    def __init__(self, *errors):
        self.errors, self.asked = list(errors), 0

    def __call__(self):
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


AWAY = httpx.ConnectError("refused")


def status(code):
    request = httpx.Request("POST", "https://superlink")
    return httpx.HTTPStatusError(f"{code}", request=request, response=httpx.Response(code))


def without_pauses(gone=lambda: False, patience=None):
    invoker = retries(gone, patience)
    invoker.wait_function = lambda seconds: None
    return invoker


def test_a_request_is_repeated_while_the_api_is_away():
    api = Api(AWAY, httpx.ReadTimeout("late"), status(503), *[AWAY] * 50)
    assert without_pauses().invoke(api) == "answer"
    assert api.asked == 54


@pytest.mark.parametrize("code", [401, 403, 413, 500])
def test_a_rejected_request_is_not_repeated(code):
    api = Api(status(code))
    with pytest.raises(httpx.HTTPStatusError):
        without_pauses().invoke(api)
    assert api.asked == 1


def test_no_request_is_repeated_after_the_api_ended():
    api = Api(*[AWAY] * 9)
    with pytest.raises(httpx.ConnectError):
        without_pauses(gone=lambda: api.asked == 3).invoke(api)
    assert api.asked == 3


def test_no_request_is_repeated_after_the_patience():
    api = Api(*[AWAY] * 9)
    with pytest.raises(httpx.ConnectError):
        without_pauses(patience=0.0).invoke(api)
    assert api.asked == 1
