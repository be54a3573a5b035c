"""The command in messages about missing packages."""

import sys

from sct.runtime import extras


def test_the_command_is_of_this_environment_and_of_this_installation(monkeypatch, tmp_path):
    assert extras.install_command("itk") == f"{sys.executable} -m pip install -c constraints.txt -e '.[itk]'"
    monkeypatch.setattr(extras, "ROOT", tmp_path)
    assert extras.install_command("itk") == f"{sys.executable} -m pip install 'sct[itk]'"
