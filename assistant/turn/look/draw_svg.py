"""Draws one SVG: `python draw_svg.py WIDTH FONTS < drawing.svg > drawing.png`. A program of its own, so that it can be stopped."""

import sys

import resvg_py


def main() -> None:
    """Reads UTF-8 markup, writes PNG."""
    sys.stdout.buffer.write(
        resvg_py.svg_to_bytes(
            svg_string=sys.stdin.buffer.read().decode(),
            width=int(sys.argv[1]),
            font_dirs=[sys.argv[2]],
            font_family="DejaVu Sans",
            sans_serif_family="DejaVu Sans",
            serif_family="DejaVu Serif",
            monospace_family="DejaVu Sans Mono",
        )
    )


if __name__ == "__main__":
    main()
