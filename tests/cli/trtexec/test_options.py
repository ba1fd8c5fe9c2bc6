from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from swapnet.cli.trtexec.options import OPTIONS

HELP = Path(__file__).parent / "options_11_1.txt"
PAGE = Path(__file__).parents[3] / "docs" / "trtexec.md"


def names_of_the_help() -> list[str]:
    """Names in the help of trtexec 11.1, without the lines that name its source."""
    return [line for line in HELP.read_text().splitlines() if not line.startswith("#")]


def test_no_option_of_trtexec_is_unknown() -> None:
    names = names_of_the_help()
    assert len(names) == len(set(names)) == 126
    assert [name for name in names if name not in OPTIONS] == []
    counts = Counter(OPTIONS[name].treatment for name in names)
    assert counts == {"mapped": 43, "noticed": 37, "refused": 46}
    words = " ".join(PAGE.read_text().split())
    assert (
        f"Of the {len(names)} names in trtexec's help {counts['mapped']} are mapped, "
        f"{counts['noticed']} noticed and {counts['refused']} refused."
    ) in words


def test_each_option_says_what_it_does() -> None:
    for name, option in OPTIONS.items():
        assert option.name == name
        assert option.text
        assert not option.text.endswith(".")
        if option.harmless:
            assert option.treatment == "refused"
            assert option.takes_value


def test_the_page_has_the_table() -> None:
    rows = re.findall(r"^\| `(-[^`=]+)(=…)?` \| (\w+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    found = {name: (treatment, text) for name, _, treatment, text in rows}
    assert found == {option.name: (option.treatment, option.text) for option in OPTIONS.values()}
