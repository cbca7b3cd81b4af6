"""Counts hours and prices. Pure.

    intervals   how long something was held, in whole microseconds
    ledger      usage records, each counted once
    outcome     how a replica ended: what its attempt was counted as
    cells       records -> cells, the finest categories of usage
    fold        folds records into sums that give the same bill
    coarsen     merges cells until they fit into a status
    goodput     splits a record's held time by cause
    price_book  which price applies to a resource on a day; pins a record's prices
    bill        records and prices -> the bill
    outlook     whether everything used now or soon has a price
    savings     what steps that were not taken would have cost
    payback     when the search for a variant's steps has paid
    exact       decimals without rounding, and as plain text

Nothing here is a float. Time is whole microseconds, quantities and money are decimals, and the only rounding is that of
a bill line's hours to nine decimals.
"""
