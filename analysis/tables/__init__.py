"""Tables and the claims, as Markdown, CSV and LaTeX."""
