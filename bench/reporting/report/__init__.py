"""One self-contained HTML file about the runs of a split: tables, charts, and every answer drawn on its picture.

selection.py    which runs
gallery.py      expressions, boxes and labels as columns of numbers
thumbnails.py   the pictures, small
charts.py       intervals as SVG that follows the page's colours and width
sections.py     what the tables of the page say
page.py         the template filled, scripts and styles put inside, what they may do restricted
templates/      the page, its styles and its scripts, each a file that can be read on its own
"""
