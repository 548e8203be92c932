"""A table in LaTeX, for a paper: booktabs rules, everything that LaTeX would read as a command escaped."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.spec import Spec

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "—": "---",
    "†": r"$^{\dagger}$",
    "✓": r"yes",
    "✗": r"no",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "β": r"$\beta$",
    "α": r"$\alpha$",
}


def escape(text: str) -> str:
    """Return ``text`` as LaTeX shows it."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def latex_table(spec: Spec, columns: Sequence[str], body: Sequence[tuple[str, Sequence[tuple[str, bool]]]]) -> str:
    """Return a ``table`` environment; ``body`` is a row's label with its cells, each a text and whether it is bold."""
    caption = " ".join(" ".join([f"{spec.title}.", spec.scale.stamp or "", spec.caption]).split())
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:{spec.name.replace('_', '-')}}}",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(["", *(escape(column) for column in columns)]) + r" \\",
        r"\midrule",
    ]
    for label, cells in body:
        texts = [rf"\textbf{{{escape(text)}}}" if bold else escape(text) for text, bold in cells]
        lines.append(" & ".join([escape(label), *texts]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"
