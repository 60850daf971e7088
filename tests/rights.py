"""Commands run as somebody whom the rights of files bind: root, as in a container, may read and write everything."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2


def run_bound_by_rights(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS…`; root keeps its name and its folders, and loses what lifts it above rights.

    The test is skipped where that cannot be done.
    """
    if os.name != "posix":
        pytest.skip("rights of files are tested on POSIX systems")
    command = [sys.executable, *map(str, arguments)]
    try:
        return subprocess.run(
            command, preexec_fn=_give_up_privileges, capture_output=True, text=True, timeout=120, **options
        )
    except subprocess.SubprocessError as error:
        pytest.skip(f"root cannot give up its privileges here: {error}")


def run_petid_bound_by_rights(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `petid ARGUMENTS…` in a folder, likewise."""
    return run_bound_by_rights("-m", "petid_search", *arguments, cwd=folder)


def _give_up_privileges() -> None:
    if os.geteuid() != 0:
        return
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        if library.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
