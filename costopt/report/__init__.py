"""A job as one page of HTML: its loss, where time and money went, its variants, and what was wasted. Pure.

page        all of it -> HTML (read first); page.html.j2 is its template
facts       a status and a spec -> what the page tells: numbers in words, rows, points
waste       what was paid for and is of no use, and why
dominance   which models no other one beats
charts      the drawings: curves, bars, scatter
axes        ranges and ticks
svg         elements, and a panel with its axes

The page is whole by itself: no script, nothing fetched, drawings as SVG of ours. Text of others (names, messages) is
escaped by the template, and in drawings by `svg.tag`. Colours come from the page's style, which has two sets: light and
dark.
"""
