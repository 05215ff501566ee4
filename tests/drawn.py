"""What a test reads out of a figure."""

from __future__ import annotations

from xml.etree import ElementTree

from matplotlib.text import Text

SVG_TEXT = "{http://www.w3.org/2000/svg}text"


def texts(svg) -> str:
    """Return the words of an SVG file; formulas are taken from its comments."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    return " ".join(
        "".join(element.itertext())
        for element in ElementTree.parse(svg, parser).iter()
        if element.tag in (SVG_TEXT, ElementTree.Comment)
    )


def lines(axes) -> dict[str, tuple[list[float], list[float]]]:
    """Return the named lines of a chart, across and upwards."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def clipped(figure) -> list[str]:
    """Return the words that reach over the edge of a figure, by half a pixel."""
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi

    def inside(text: Text) -> bool:
        box = text.get_window_extent()
        low, high = min(box.x0, box.y0), max(box.x1 - width, box.y1 - height)
        return low > -0.5 and high < 0.5

    hidden = [label for axes in figure.axes for label in _beyond_limits(axes)]
    return [
        text.get_text()
        for text in figure.findobj(Text)
        if text.get_text() and text not in hidden and not inside(text)
    ]


def _beyond_limits(axes) -> list[Text]:
    """Return labels that are not drawn, since their ticks are outside of the axis."""
    return [
        label
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if not min(axis.get_view_interval())
        <= tick.get_loc()
        <= max(axis.get_view_interval())
        for label in (tick.label1, tick.label2)
    ]
