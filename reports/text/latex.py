"""Text as LaTeX shows it."""

from __future__ import annotations

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # at the start of a row it would be read as the optional argument of the \\ before it
        "*": "{*}",  # likewise
        "\N{PLUS-MINUS SIGN}": r"$\pm$",
        "\N{MINUS SIGN}": "$-$",
        "\N{MULTIPLICATION SIGN}": r"$\times$",
        "\N{EN DASH}": "--",
        "\N{EM DASH}": "---",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def latex(text: str) -> str:
    """One line with every special character escaped."""
    return " ".join(text.split()).translate(_LATEX)
