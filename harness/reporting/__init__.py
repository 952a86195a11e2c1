"""Tables and reports in the terminal, Markdown and LaTeX."""
