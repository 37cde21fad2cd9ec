"""One self-contained HTML file about the runs of a split: tables, charts, and every answer drawn on its picture.

selection.py    which runs
gallery.py      expressions, boxes and labels as columns of numbers
thumbnails.py   the pictures, small
sections.py     what the tables and charts of the page say
comparing.py    what it says of pairs of runs
drawings.py     drawings from elsewhere: speed, training, reliability
page.py         the template filled, scripts and styles put inside, what they may do restricted
templates/      the page, its styles and its scripts, each a file that can be read on its own
"""
