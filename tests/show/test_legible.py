"""Every pair of colours that pages put on each other can be read, in both themes: WCAG contrast 4.5."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SHOW = Path(__file__).parents[2] / "src" / "thoughtlens" / "show"
LEAST = 4.5
Colour = tuple[float, float, float]


def luminance(colour: Colour) -> float:
    """Relative luminance, WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Colour, other: Colour) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def over(top: Colour, share: float, below: Colour) -> Colour:
    """A colour of this opacity on another one."""
    return tuple(share * a + (1 - share) * b for a, b in zip(top, below, strict=True))


def read(value: str) -> Colour | None:
    if found := re.fullmatch(r"#([0-9a-f]{3}|[0-9a-f]{6})", value):
        digits = found[1] if len(found[1]) == 6 else "".join(2 * c for c in found[1])
        return tuple(int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    if re.fullmatch(r"\d+, \d+, \d+", value):
        return tuple(int(part) / 255 for part in value.split(","))
    return None


def themes(css: str) -> list[dict[str, Colour]]:
    """The variables of every theme of a style: what a later one does not set stays as the first has it."""
    found: list[dict[str, Colour]] = []
    for block in re.findall(r":root[^{]*\{([^}]*)\}", css):
        named = {name: read(value.strip()) for name, value in re.findall(r"--([\w-]+):\s*([^;]+);", block)}
        found.append((found[0] if found else {}) | {k: v for k, v in named.items() if v is not None})
    return found


def tokens(share: float) -> float:
    """Opacity of the report's tokens, as its style has it."""
    (scale,) = re.findall(r"var\(--a\) \* (\d+)%", (SHOW / "report/templates/report.html.jinja").read_text())
    return share * int(scale) / 100


def heat(share: float) -> float:
    """Opacity of the explorer's heat, as its script has it."""
    source = (SHOW / "explorer/page/parts.js").read_text("utf-8")
    (least, more) = re.findall(r"\(([\d.]+) \+ ([\d.]+) \* strength\)", source)[0]
    return float(least) + float(more) * share


PAGES = {
    "explorer/page/style.css": (
        ("ink", "soft", "accent", "warm", *(f"route-{i}" for i in range(6))), ("paper", "panel"),
        ("heat", "heat-below"), heat,
    ),
    "report/templates/report.html.jinja": (
        ("ink", "soft", "warn", "link", "good", "bad"), ("page", "panel", "warn-panel"), ("hit",), tokens,
    ),
}  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_text_can_be_read_on_every_ground(page):
    inks, grounds, heats, opacity = PAGES[page]
    found = themes((SHOW / page).read_text("utf-8"))
    assert len(found) == 3  # light, dark, print
    for theme in found:
        for ground in grounds:
            for ink in inks:
                assert contrast(theme[ink], theme[ground]) >= LEAST, (ink, ground, theme[ink])
            for warm in heats:
                for i in range(101):
                    here = over(theme[warm], opacity(i / 100), theme[ground])
                    assert contrast(theme["ink"], here) >= LEAST, (warm, i, ground)


def test_nothing_else_colours_what_stands_on_heat():
    """Links and notes on a heated ground take its ink; buttons bring their own ground."""
    css = (SHOW / "explorer/page/style.css").read_text("utf-8")
    assert '[style*="--heat"] a, [style*="--heat"] .note { color: inherit; }' in css
    buttons = re.findall(r"^button, select, input, textarea \{([^}]*)\}", css, re.MULTILINE)[0]
    assert "background: var(--panel)" in buttons
    for script in (SHOW / "explorer/page").glob("*.js"):
        assert "color: var(--" not in script.read_text("utf-8"), script


def test_contrast_by_hand():
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    assert contrast(read("#777"), read("#ffffff")) == pytest.approx(4.48, abs=0.01)
    assert themes(":root { --a: #fff; --b: 0, 0, 255; } :root[x] { --a: #000; }")[1]["a"] == (0, 0, 0)
