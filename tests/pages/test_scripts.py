"""Names and texts of any script in pages, figures and the terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from babyllama.common.console import cell
from babyllama.common.scripts import script_of
from babyllama.pages import figures, fonts
from babyllama.pages.run_page import language_tag, render
from babyllama.pages.tables import TableData, print_tables

NAMES = ("العربية", "हिन्दी", "ไทยน้ำ", "中文", "русский", "English", "한국어")


def test_each_script_has_a_font_or_is_named() -> None:
    for name in NAMES:
        families, missing = fonts.fonts_for(name)
        files = fonts._files()
        drawn = [fonts._letters(files[family]) for family in ("DejaVu Sans", *families)]
        for character in name:
            script = script_of(character)
            assert script is None or script in missing or any(ord(character) in letters for letters in drawn)
    assert fonts.fonts_for("English, русский, العربية") == ([], [])


def test_a_script_without_a_font_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    figure, axes = figures.pyplot().subplots()
    axes.set_title("𐎀𐎁 𐤀𐤁")  # Ugaritic and Phoenician: where a system has their fonts, nothing is told
    missing = fonts.fonts_for("𐎀𐎁 𐤀𐤁")[1]
    fonts.use_fonts(figure)
    fonts.use_fonts(figure)
    told = capsys.readouterr().out
    assert told.count("figures: no font here has") == len(set(missing))
    figures.pyplot().close(figure)


def test_texts_of_a_figure_get_their_fonts(tmp_path: Path) -> None:
    rows = [(name, 1.0 + number, None) for number, name in enumerate(NAMES)]
    svg = figures.interval_chart(rows, "bits per byte")
    for name in NAMES:
        assert f">{name}<" in svg, "text stays text: the browser draws it"
    results: dict[str, Any] = {"domains": {name: {"bits_per_byte": value} for name, value, _ in rows}}
    assert figures.write_evaluation_plots(results, tmp_path).stat().st_size > 10_000
    families = fonts.fonts_for("ไทย")[0]
    assert all(f"'{family}'" in svg or f'"{family}"' in svg or f"&quot;{family}" in svg for family in families)


def test_columns_are_as_wide_as_they_are_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        assert cell_len(cell(name, 12)) == 12
        assert cell(name, 2).rstrip("\u200e") == name
    rows = tuple((name, "1,328") for name in NAMES)
    print_tables([TableData("domains", ("domain", "words"), rows)])
    lines = [line for line in capsys.readouterr().out.split("\n") if "1,328" in line]
    assert len({cell_len(line) for line in lines}) == 1
    assert "العربية\u200e" in lines[0], "a number behind it stays behind it"


def _metrics(name: str, content: dict[str, Any]) -> dict[str, Any]:
    amounts = {
        "words": 10,
        "raw_words": None,
        "epochs": 1,
        "words_seen": 10,
        "teachers": [],
        "tokenizer": {"text": "x"},
    }
    ledger = {**amounts, "domains": {name: 10}, "content": content, "bytes": 30, "bytes_over_premium": None}
    facts = {"num_parameters": 5, "train_words": 10, "train_tokens": 20, "train_seconds": 1.0, "tokens_per_second": 9.0}
    runtime = {"precision": "fp32", "device": "cpu"}
    return {
        "name": name,
        **facts,
        "ledger": ledger,
        "runtime": runtime,
        "seed": 1,
        "peak_memory_bytes": 1,
        "data_fingerprint": "f",
    }


def test_a_page_says_which_way_and_in_which_language_a_text_runs() -> None:
    content = {"中文": {"bytes": 30, "language": "zh", "script": "Hans", "bytes_over_premium": None}}
    samples = [{"prompt": "人人", "completion": "生而自由"}, {"prompt": "العربية", "completion": " (1)"}]
    generation = {"samples": samples, "distinct_2": 1.0, "repetition": 0.0, "mean_words": 3.0}
    metrics = _metrics("中文", content)
    page = render({"generation": generation}, metrics, [], "")
    assert page.count('<pre class="sample" dir="auto" lang="zh-Hans">') == 2
    assert "unicode-bidi: plaintext" in page
    assert re.search(r"<td>中文</td><td class=\"number\">10</td><td class=\"number\">30 B</td>", page)
    assert language_tag({}) == language_tag({"ledger": {"content": {"*": {"bytes": 1, "language": "und"}}}}) == ""
