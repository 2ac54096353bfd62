import sys
from importlib import import_module
from unittest.mock import patch

import pytest

from fedser.client.features.pretrained import (
    check_layer,
    fingerprint,
    package_version,
    prepare_torchaudio,
)
from fedser.common.errors import UserError


def test_a_missing_package_is_named_with_its_installation():
    with pytest.raises(UserError, match=r"no-such-package is not installed: .*fedser\[encoders\]"):
        package_version("no-such-package")


def test_the_fingerprint_depends_on_contents_and_order(tmp_path):
    one, two, same = (tmp_path / name for name in ("1", "2", "3"))
    for path, content in ((one, "a"), (two, "b"), (same, "a")):
        path.write_text(content)
    assert fingerprint([one, two]) == fingerprint([same, two]) != fingerprint([two, one])


@pytest.mark.parametrize(("layer", "fits"), [(-4, False), (-3, True), (2, True), (3, False)])
def test_layers_are_counted_from_both_ends(layer, fits):
    if fits:
        check_layer(layer, 3)
    else:
        with pytest.raises(UserError, match=rf"features\.layer={layer}: .* 0 to 2, .* -1 to -3"):
            check_layer(layer, 3)


def test_torchaudio_loads_without_its_compiled_part(tmp_path, monkeypatch):
    package = tmp_path / "torchaudio"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from . import _extension\ncompiled = _extension._IS_TORCHAUDIO_EXT_AVAILABLE"
    )
    (package / "_extension.py").write_text("raise OSError('libc10_cuda.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with patch.dict(sys.modules):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        prepare_torchaudio()
        assert import_module("torchaudio").compiled is False
