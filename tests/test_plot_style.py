"""The one style of all drawings: readable in grey, the same everywhere, and fit for a page."""

from __future__ import annotations

import io
import re

import matplotlib
from toy_fits import SIGMAS

import longstride as ls
from longstride.plots import draw_levels, draw_table
from longstride.plots.style import BASE, CURVES, FAINT, inline_svg, save_figure

UNIPC, DDIM = ls.build("unipc", SIGMAS), ls.build("ddim", SIGMAS)


def test_curves_are_told_apart_in_grey():
    looks = [*CURVES, BASE, FAINT]
    assert len({(look.marker, look.filled) for look in looks}) == len(looks)
    assert len({look.dash for look in looks}) == len(looks)


def test_no_setting_of_the_reader_changes_a_plot_and_none_is_changed(tmp_path):
    save_figure(draw_levels({"a": DDIM}), tmp_path / "a.png")
    settings = {"lines.linewidth": 40, "font.size": 30, "axes.facecolor": "black", "savefig.facecolor": "red"}
    with matplotlib.rc_context(settings):
        save_figure(draw_levels({"a": DDIM}), tmp_path / "b.png")
        assert all(matplotlib.rcParams[name] == value for name, value in settings.items())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_name_is_drawn_as_it_is():
    """No mathematics in it, no markup, and letters that the font has not."""
    name = "a$^x$_b <&> 日本"
    svg = inline_svg(draw_levels({name: DDIM}), "c1-levels")
    assert "a$^x$_b &lt;&amp;&gt; 日本" in svg
    figure = draw_levels({"a$b": DDIM})
    figure.savefig(io.BytesIO())
    assert figure.axes[0].get_yticklabels()[0].get_text() == "a$b"


def test_two_drawings_of_a_page_share_no_id():
    ids = [set(re.findall(r'id="([^"]+)"', inline_svg(draw_levels({"a": DDIM}), name))) for name in ("one", "two")]
    assert ids[0]
    assert not ids[0] & ids[1]
    svg = inline_svg(draw_table(UNIPC), "three")
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    assert used <= set(re.findall(r'id="([^"]+)"', svg))
