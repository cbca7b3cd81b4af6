"""Every hour and its price, counted in one pure place.

    intervals   how long something was held, in whole microseconds
    usage       one replica's usage record
    ledger      usage records, each counted once
    goodput     a record's held time split by cause
    price_book  which price holds for a resource on a day
    bill        records and prices -> the bill
    exact       decimals without rounding, and as plain text

Nothing here is a float. Time is whole microseconds, quantities and money are decimals, and the only rounding is that of
a bill line's hours to nine decimals.
"""
