"""How requests to an API that cannot be reached are tried again."""

import httpx
import pytest

from fedser.client.node.tasks import retries


class Api:
    """Raises these errors in turn, and then answers."""

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


def trying(gone=lambda: False, patience=None):
    made = retries(gone, patience)
    made.wait_function = lambda seconds: None
    return made


def test_an_api_that_was_away_is_asked_again():
    api = Api(AWAY, httpx.ReadTimeout("late"), status(503), *[AWAY] * 50)
    assert trying().invoke(api) == "answer"
    assert api.asked == 54


@pytest.mark.parametrize("code", [401, 403, 413, 500])
def test_an_api_that_refuses_is_not_asked_again(code):
    api = Api(status(code))
    with pytest.raises(httpx.HTTPStatusError):
        trying().invoke(api)
    assert api.asked == 1


def test_an_api_that_has_ended_is_not_waited_for():
    api = Api(*[AWAY] * 9)
    with pytest.raises(httpx.ConnectError):
        trying(gone=lambda: api.asked == 3).invoke(api)
    assert api.asked == 3


def test_patience_ends():
    api = Api(*[AWAY] * 9)
    with pytest.raises(httpx.ConnectError):
        trying(patience=0.0).invoke(api)
    assert api.asked == 1
