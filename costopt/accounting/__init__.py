"""Every hour and its price, counted in one pure place.

    intervals   how long something was held, in whole microseconds
    ledger      usage records, each counted once
    outcome     how a replica ended: what its attempt was counted as
    cells       records counted into the finest things that are told apart
    fold        records folded into sums that make the same bill
    coarsen     cells put together until a status has room for them
    goodput     a record's held time split by cause
    price_book  which price holds for a resource on a day; a record's prices pinned
    bill        records and prices -> the bill
    outlook     whether all that is used, or is about to be, has a price
    exact       decimals without rounding, and as plain text

Nothing here is a float. Time is whole microseconds, quantities and money are decimals, and the only rounding is that of
a bill line's hours to nine decimals.
"""
