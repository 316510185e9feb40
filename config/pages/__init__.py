"""Pages and drawings that need no other file: HTML from a template, charts as inline SVG. Knows no figure of ours."""
