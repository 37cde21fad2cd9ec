"""One self-contained HTML file about the runs of a split: tables, charts, and every answer drawn on its image."""
