"""Files of the user's own: found, imported once, and named when they fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from babyllama import plugins
from babyllama.errors import ConfigError


def test_a_plugin_registers_and_is_imported_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from babyllama.plugins import *\nfrom babyllama import plugins as p\n"
        "p.register_cleaner('letters', str.upper)\np.register_task('count', lambda e, o: {'n': 1})\n"
        "p.register_architecture('Mine', lambda c, t: None)\n"
        f"open({str(tmp_path / 'log')!r}, 'a').write('x')\n"
    )
    plugins.load_plugins([file])
    plugins.load_plugins([str(file)])
    assert plugins.CLEANERS.pop("letters")("ab") == "AB"
    assert plugins.TASKS.pop("count")(None, {}) == {"n": 1}
    assert "Mine" in plugins.ARCHITECTURES
    assert plugins.ARCHITECTURES.pop("Mine")
    assert (tmp_path / "log").read_text() == "x"
    assert list(plugins.plugin_hashes([file])) == ["mine.py"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.py", None, "no such file"),
        ("broken.py", "1 / 0", "failed on import: ZeroDivisionError"),
        ("syntax.py", "def (", "failed on import: SyntaxError"),
        ("notes.txt", "x", "not a Python file"),
    ],
)
def test_a_bad_plugin_gives_one_line_that_names_the_file(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        plugins.load_plugins([file])
    assert str(file) in str(caught.value)
    assert caught.value.exit_code == 2
